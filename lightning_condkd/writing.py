"""Atomic writing of files and folders, and checks beforehand that they can be written."""

from __future__ import annotations

import os
import shutil
import stat
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
    """A file or folder to be written.

    Args:
        path: its path.
        size: number of bytes that it needs at least.
        folder: whether it is a folder, into which files are written.
    """

    path: Path
    size: int = 0
    folder: bool = False


def check_target(target: Target) -> None:
    """Check that a file or folder can be written, as far as this can be known, without creating anything.

    Args:
        target: the file or folder; its missing parent folders are created later.

    Raises:
        IsADirectoryError: if the path of the file is a folder.
        NotADirectoryError: if the path of the folder, or a parent of the target, is a file.
        OSError: if a name is too long, the folder cannot be written to, or the disk has too little space.

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
    """Create the missing parent folders of a target.

    Args:
        path: the target, a file or a folder.

    Raises:
        NotADirectoryError: if one of them is a file.
    """
    _refuse_taken(path, folder=os.path.isdir(path))
    path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder to write to; it replaces the file once it is complete and on the disk.

    So neither a crash nor a full disk leaves an incomplete file under the name, and a reader never finds one.

    Args:
        path: the target; missing parent folders are created.

    Raises:
        IsADirectoryError: if the target is a folder.
        NotADirectoryError: if a parent of the target is a file.
        OSError: if it could not be written; the folder is then unchanged.
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
        f"{path} could not be written ({reason}), and is unchanged: make room on the disk, or choose another place"
    )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to write into; it is renamed to the target once it is complete.

    Args:
        folder: the target; missing parent folders are created.

    Raises:
        FileExistsError: if it is not empty.
        OSError: if it could not be written; the temporary folder is then removed.
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
    """Check that a folder does not exist, or is empty.

    Args:
        folder: the folder.

    Raises:
        FileExistsError: if it is not empty, or is a file.
    """
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: choose another, or remove it")


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically.

    Args:
        path: the target; missing parent folders are created.
        content: all of its bytes.

    Raises:
        OSError: see :func:`replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def save_by_torch(path: Path, content: Any) -> None:  # noqa: ANN401 (tensors in any nesting)
    """Write a file of ``torch.save`` atomically.

    Args:
        path: the target; missing parent folders are created.
        content: tensors in any nesting.

    Raises:
        OSError: see :func:`replacing`.
    """
    with replacing(path) as temporary, temporary.open("wb") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # torch's error if the disk is full
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically.

    Args:
        path: the target; missing parent folders are created.
        tensors: contiguous CPU tensors that share no memory.
        metadata: text for the file's header.

    Raises:
        OSError: see :func:`replacing`.
    """
    with replacing(path) as temporary:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)  # new releases of safetensors write files for their owner alone
        save_file(dict(tensors), temporary, dict(metadata))
        temporary.chmod(mode)
