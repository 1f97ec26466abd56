"""A hash is that of the bytes, whatever tensor they lie in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_condkd.hashing import content_hash, file_hash


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3).T,
        torch.arange(6).to(torch.bfloat16).view(torch.int16).view(torch.bfloat16),
        torch.tensor([True, False]),
        torch.tensor(7),
        torch.empty(0, 3),
        torch.ones(2, dtype=torch.complex64, requires_grad=True),
    ],
)
def test_a_tensor_counts_by_its_values_in_order(tensor: Tensor) -> None:
    whole = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    assert content_hash(tensor) == content_hash(whole) == hashlib.sha256(whole).hexdigest()
    assert content_hash("ä", tensor, b"b") == hashlib.sha256("ä".encode() + whole + b"b").hexdigest()


def test_a_file_has_the_hash_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)))
    assert file_hash(tmp_path / "file") == content_hash(bytes(range(256)))
