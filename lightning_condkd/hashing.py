"""SHA-256 of files and of values in memory, to identify contents."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor


def file_hash(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file.

    Args:
        path: the file.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_hash(*parts: str | bytes | Tensor) -> str:
    """Return the hexadecimal SHA-256 of a sequence of texts, bytes and tensors.

    Only the values of a tensor are hashed, so the caller adds name, shape and dtype as texts.

    Args:
        parts: texts, encoded in UTF-8, bytes, and tensors of any shape, dtype and device.

    Example:
        >>> content_hash("a", torch.tensor(98, dtype=torch.uint8), b"c") == content_hash("abc")
        True
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode() if isinstance(part, str) else _bytes(part))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:  # noqa: ANN401 - a buffer
    return cast(Any, tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
