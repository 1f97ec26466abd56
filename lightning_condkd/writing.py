"""Atomic writing: a file is written whole or not at all, and what cannot be written is refused beforehand."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


class Target(NamedTuple):
    """A file or folder that is going to be written.

    Args:
        path: where.
        size: bytes that it needs at least.
        folder: whether it is a folder, into which files are written.
    """

    path: Path
    size: int = 0
    folder: bool = False


def check_target(target: Target) -> None:
    """Check that a file or folder can be written, as far as this can be known; nothing is made or left behind.

    Args:
        target: the file or folder; its missing parent folders are going to be made.

    Raises:
        IsADirectoryError: a folder is where the file should be.
        NotADirectoryError: it would lie below a file, or a file is where the folder should be.
        OSError: a name is too long, the folder cannot be written to, or the disk has too little space.

    Example:
        >>> check_target(Target(Path("/dev/null/set.safetensors")))
        Traceback (most recent call last):
        ...
        NotADirectoryError: /dev/null/set.safetensors would lie below /dev/null, which is a file: choose another place,
        or move it
    """
    _refuse_taken(target.path, target.folder)
    path = Path(os.path.abspath(target.path))
    there = next(folder for folder in (path, *path.parents) if os.path.isdir(folder))
    for made in (path, *(there / name for name in path.relative_to(there).parts)):
        _check_length(made, target)
    try:
        tempfile.TemporaryFile(dir=there).close()  # on Linux it never has a name
    except OSError as error:
        raise OSError(f"{target.path} cannot be written ({error.strerror} in {there}): choose another place") from error
    if target.size > (free := shutil.disk_usage(there).free):
        raise OSError(
            f"{target.path} cannot be written: it needs at least {target.size / 1e6:.1f} MB, the disk of {there} has "
            f"{free / 1e6:.1f} MB left: make room, or choose another place"
        )


def _check_length(path: Path, target: Target) -> None:
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OSError(f"{target.path} cannot be written ({error.strerror}): choose a shorter name") from error


def _refuse_taken(path: Path, folder: bool = False) -> None:
    if not folder and os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder, expected a file to write: choose another name, or move it")
    if folder and os.path.lexists(path) and not os.path.isdir(path):
        raise NotADirectoryError(f"{path} is a file, expected a folder: choose another name, or move it")
    above = Path(os.path.abspath(path)).parents
    if taken := next((parent for parent in above if os.path.lexists(parent) and not os.path.isdir(parent)), None):
        raise NotADirectoryError(f"{path} would lie below {taken}, which is a file: choose another place, or move it")


def make_parents(path: Path) -> None:
    """Make the missing parent folders of a target.

    Args:
        path: the target, a file or a folder.

    Raises:
        NotADirectoryError: one of them is a file.
    """
    _refuse_taken(path, folder=os.path.isdir(path))
    path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside a file to write to, which takes the file's place when all is written and on the disk.

    So a reader, a crash or a full disk never leaves half of a file under its name.

    Args:
        path: the target; missing parent folders are made.

    Raises:
        IsADirectoryError: the target is a folder.
        NotADirectoryError: the target would lie below a file.
        OSError: it could not be written; the folder is as before.
    """
    _refuse_taken(path)
    temporary = path.with_name(f".condkd-{os.urandom(8).hex()}.tmp")
    try:
        make_parents(path)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _unwritten(path: Path, error: BaseException) -> OSError:
    while error.__cause__ is not None:
        error = error.__cause__
    reason = getattr(error, "strerror", None) or error
    return OSError(
        f"{path} could not be written ({reason}), and is as it was before: make room on the disk, or choose another "
        "place"
    )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes a folder's name when all is written.

    Args:
        folder: the target; missing parent folders are made.

    Raises:
        FileExistsError: it holds something.
        OSError: it could not be written; nothing is left of it.
    """
    refuse_filled(folder)
    _refuse_taken(folder, folder=True)
    temporary = folder.with_name(f".condkd-{os.urandom(8).hex()}.tmp")
    try:
        make_parents(folder)
        temporary.mkdir()
        yield temporary
        os.replace(temporary, folder)
    except OSError as error:
        raise _unwritten(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_filled(folder: Path) -> None:
    """Check that a folder is still to be made, or empty.

    Args:
        folder: the folder.

    Raises:
        FileExistsError: it holds something, or is a file.
    """
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: choose another, or remove it")


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a reader or a crash never sees half of it.

    Args:
        path: the target; missing parent folders are made.
        content: all of its bytes.

    Raises:
        OSError: see :func:`replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def save_by_torch(path: Path, content: Any) -> None:  # noqa: ANN401 (tensors in any nesting)
    """Write what ``torch.save`` writes, whole or not at all.

    Args:
        path: the target; missing parent folders are made.
        content: tensors in any nesting.

    Raises:
        OSError: see :func:`replacing`.
    """
    with replacing(path) as temporary, temporary.open("wb") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # as which it hands on that the disk is full
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: the target; missing parent folders are made.
        tensors: contiguous CPU tensors that share no memory.
        metadata: text beside them.

    Raises:
        OSError: see :func:`replacing`.
    """
    with replacing(path) as temporary:
        save_file(dict(tensors), temporary, dict(metadata))
