"""Files of ours at rest: safetensors with one JSON header, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lightning_condkd.unpickling import load_without_code, refused_names

HEADER_KEY = "condkd"
FORMAT_VERSION = 1
CHUNK_KIND = "memory bank chunk"
HASH_KEY = "sha256"


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file.

    Args:
        path: the file.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def make_parents(path: Path) -> None:
    """Make the missing parent folders of a target.

    Args:
        path: the target, a file or a folder.

    Raises:
        NotADirectoryError: one of them is a file.
    """
    if taken := next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None):
        raise NotADirectoryError(f"{path} would lie below {taken}, which is a file: choose another place, or move it")
    path.parent.mkdir(parents=True, exist_ok=True)


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a reader or a crash never sees half of it.

    Args:
        path: the target; missing parent folders are made.
        content: all of its bytes.

    Raises:
        IsADirectoryError: the target is a folder.
        NotADirectoryError: the target would lie below a file.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file to write: choose another name, or move it")
    make_parents(path)
    # Its name is not in it: Lightning counts every file that has hpc_ckpt_ in its name, also one that a kill has left.
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def pack(kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file of ours; equal arguments give equal bytes.

    The header is one JSON string under one key, because safetensors orders several keys at random. It holds a hash of
    the tensors and of itself, which :func:`unpack` checks.

    Args:
        kind: what the file is, for example ``condensed set``.
        tensors: contiguous CPU tensors that share no memory.
        header: JSON record beside them.

    Example:
        >>> import torch
        >>> len({pack("example", {"x": torch.zeros(2)}, {"a": 1, "b": 2}) for _ in range(20)})
        1
    """
    record = {"format_version": FORMAT_VERSION, "kind": kind, **header}
    record[HASH_KEY] = _content_hash(tensors, record)
    return save(dict(tensors), {HEADER_KEY: json.dumps(record, sort_keys=True, allow_nan=False)})


def _content_hash(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def unpack(kind: str, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a file of ours.

    Args:
        kind: the kind that the file must have.
        path: the file.

    Raises:
        ValueError: the file is of another format, version or kind, or was altered.
    """
    with _opened(path) as stream:
        header = _checked_header(kind, path, stream.metadata())
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    expected = header.pop(HASH_KEY, None)
    if expected is None:
        raise ValueError(f"{path} has no hash of its content in its header: make it again, or restore it from a copy")
    if expected != _content_hash(tensors, {"format_version": FORMAT_VERSION, "kind": kind, **header}):
        raise ValueError(
            f"{path} was altered or damaged since it was written: its content does not give the hash in its header. "
            "Copy it again or make it again"
        )
    return tensors, header


def read_header(kind: str, path: Path) -> dict[str, Any]:
    """Return the header of a file of ours without its tensors.

    Args:
        kind: the kind that the file must have.
        path: the file.

    Raises:
        ValueError: the file is of another format, version or kind.
    """
    with _opened(path) as stream:
        header = _checked_header(kind, path, stream.metadata())
    header.pop(HASH_KEY, None)
    return header


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as stream:
            yield stream
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file or is cut off ({error}): copy or make it again") from error


def _checked_header(kind: str, path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    if HEADER_KEY not in (metadata or {}):
        raise ValueError(
            f"{path} is a safetensors file, but no {kind}: its metadata lacks the key {HEADER_KEY!r}. "
            "Weights of a network belong to the argument that asks for weights"
        )
    try:
        header: dict[str, Any] = json.loads((metadata or {})[HEADER_KEY])
    except json.JSONDecodeError as error:
        raise ValueError(f"the header of {path} is damaged ({error}): copy or make it again") from error
    version, found = header.pop("format_version", None), header.pop("kind", None)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {version!r}, this release reads {FORMAT_VERSION}: update lightning-condkd"
        )
    if found != kind:
        raise ValueError(f"{path} holds a {found}, expected a {kind}: give the path of a {kind}")
    return header


def plain_json(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as JSON gives it back: tuples become lists, keys are sorted.

    Args:
        name: what the record is called, for the error.
        value: the record.

    Raises:
        ValueError: a value is not JSON.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(value), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold JSON values (numbers, strings, lists): {error}; convert it first"
        ) from error
    return plain


def read_untrusted(path: Path) -> Any:  # noqa: ANN401 (whatever the file holds)
    """Return what a file of ``torch.save`` holds, without running any code of its.

    Beside tensors come the harmless records of :func:`~lightning_condkd.unpickling.load_without_code`.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: no such file.
        PermissionError: the file may not be read.
        ValueError: the file asks for code to run, is damaged, or is a folder.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file of torch.save: give the file, or use import_folder")
    try:
        return load_without_code(path)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # on damaged bytes the unpickler fails in whatever way it happens to
        raise ValueError(_refusal(path, error)) from error


def _refusal(path: Path, error: Exception) -> str:
    if wanted := refused_names(path, error):
        return (
            f"refused to read {path}: it asks for {', '.join(wanted)}, which no tensor needs. Expected a file that "
            "torch.load(weights_only=True) reads: copy it again if it may be damaged; if you trust it, load it "
            "yourself and save its tensors with CondensedSet(images, labels).save(...)"
        )
    return (
        f"refused to read {path}: expected a file of torch.save, but it is cut off, damaged or of another kind "
        f"({type(error).__name__}). Copy or download it again"
    )


class Chunk(NamedTuple):
    """One file with rows of a memory bank.

    Args:
        path: the file.
        first: id of its first row, counted since the start of the run.
        length: number of rows.
        sha256: hash of the file.
    """

    path: Path
    first: int
    length: int
    sha256: str


def link_or_copy(source: Path, target: Path) -> None:
    """Make a chunk appear in a second folder; a link costs no space.

    Args:
        source: the file, which is never changed in place.
        target: its other name.
    """
    if target.exists() and target.samefile(source):
        return
    make_parents(target)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        write_atomic(target, source.read_bytes())


def refuse_other_runs(directory: Path, run_id: str) -> None:
    """Check that a folder holds no chunks of another run.

    Args:
        directory: the folder; it need not exist.
        run_id: the run that may have chunks there.

    Raises:
        ValueError: it does.
    """
    if others := runs_in(directory) - {run_id}:
        raise ValueError(
            f"{directory} holds the memory bank of another run ({', '.join(sorted(others))}; this is {run_id}): "
            "choose another folder, remove this one, or resume that run from its checkpoint"
        )


def locate_chunk(record: Mapping[str, Any], folders: Sequence[Path], run_id: str) -> Chunk:
    """Return the first file that is the chunk of a record, by its hash.

    Args:
        record: ``name``, ``first``, ``length`` and ``sha256`` of the chunk.
        folders: where to look.
        run_id: the run that it belongs to.

    Raises:
        FileNotFoundError: no folder has it.
        ValueError: it was altered, or the folders hold the bank of another run.
    """
    paths = [folder / record["name"] for folder in folders if (folder / record["name"]).is_file()]
    for path in paths:
        if sha256(path) == record["sha256"]:
            return Chunk(path, record["first"], record["length"], record["sha256"])
    if paths:
        raise ValueError(
            f"chunk {paths[0]} of the memory bank was altered since the checkpoint: restore it from a copy, "
            "or resume from an older checkpoint"
        )
    places = ", ".join(str(folder) for folder in folders)
    if others := set().union(*map(runs_in, folders)) - {run_id}:
        raise ValueError(
            f"the checkpoint needs the memory bank of run {run_id}, but {places} holds a bank of another run "
            f"({', '.join(sorted(others))}): give the folder that belongs to the checkpoint"
        )
    raise FileNotFoundError(
        f"chunk {record['name']} of the memory bank is in none of {places}: "
        "move the folder back, or beside the checkpoint"
    )


def runs_in(directory: Path) -> set[str]:
    """Return the runs that have chunks in a folder.

    Args:
        directory: the folder; it need not exist.
    """
    return {str(read_header(CHUNK_KIND, path)["run_id"]) for path in directory.glob("chunk_*.safetensors")}
