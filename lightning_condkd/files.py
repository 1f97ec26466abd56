"""This package's files: safetensors with one JSON header, checked against a hash when they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lightning_condkd.hashing import content_hash
from lightning_condkd.unpickling import damage, load_without_code, refused_names
from lightning_condkd.writing import save_tensors

HEADER_KEY = "condkd"
FORMAT_VERSION = 1
HASH_KEY = "sha256"


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
    return save(dict(tensors), _metadata(kind, tensors, header))


def save_packed(path: Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write the bytes of :func:`pack` to a file without a copy of them in memory.

    Args:
        path: the target; missing parent folders are made.
        kind: what the file is.
        tensors: contiguous CPU tensors that share no memory.
        header: JSON record beside them.

    Raises:
        OSError: see :func:`~lightning_condkd.writing.replacing`.
    """
    save_tensors(path, tensors, _metadata(kind, tensors, header))


def _metadata(kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> dict[str, str]:
    record = {"format_version": FORMAT_VERSION, "kind": kind, **header}
    record[HASH_KEY] = _content_hash(tensors, record)
    return {HEADER_KEY: json.dumps(record, sort_keys=True, allow_nan=False)}


def _content_hash(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    parts: list[str | Tensor] = [json.dumps(record, sort_keys=True, allow_nan=False)]
    for name, tensor in sorted(tensors.items()):
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor]
    return content_hash(*parts)


def unpack(kind: str, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a file of ours.

    Args:
        kind: the kind that the file must have.
        path: the file.

    Raises:
        ValueError: the file is of another format, version or kind, or was altered.
    """
    with open_tensors(path) as stream:
        header = _checked_header(kind, path, stream.metadata())
        tensors = _all_of(stream)
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
    with open_tensors(path) as stream:
        header = _checked_header(kind, path, stream.metadata())
    header.pop(HASH_KEY, None)
    return header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of any safetensors file by name.

    Args:
        path: the file.

    Raises:
        ValueError: it is no such file.
    """
    with open_tensors(path) as stream:
        return _all_of(stream)


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open any safetensors file for its ``metadata()``, the names in it (``keys()``) and ``get_tensor(name)``.

    Args:
        path: the file.

    Raises:
        ValueError: it is no such file.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            yield stream
    except SafetensorError as error:
        raise ValueError(
            f"expected a safetensors file at {path}, but {damage(path, error)} ({error}): copy or make it again"
        ) from error


def _all_of(stream: Any) -> dict[str, Tensor]:  # noqa: ANN401 - safetensors has no type for it
    return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)


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
        raise ValueError(f"{path} holds: {found}; expected: {kind}. Give the path of such a file")
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
        f"refused to read {path}: expected a file of torch.save, but {damage(path, error)} "
        f"({type(error).__name__}). Copy or download it again"
    )
