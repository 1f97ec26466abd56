"""Random outputs of two networks in float64, and the comparison of a loss with its transcription."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_condkd.randomness import seeded_generator
from lightning_condkd.types import NetworkOutput

SAMPLES, CLASSES = 6, 5
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def random_tensor(name: str, *shape: int, scale: float = 1.0) -> Tensor:
    """A function of its name; a leaf of a graph."""
    values = torch.randn(shape, generator=seeded_generator(0, name), dtype=torch.float64)
    return (scale * values).requires_grad_()


def random_output(
    name: str, width: int = 7, maps: Sequence[tuple[int, int, int]] = (), samples: int = SAMPLES
) -> NetworkOutput:
    return NetworkOutput(
        random_tensor(f"{name} logits", samples, CLASSES, scale=2.0),
        random_tensor(f"{name} embedding", samples, width),
        tuple(random_tensor(f"{name} map {i}", samples, *shape) for i, shape in enumerate(maps)),
    )


def assert_same(ours: Tensor, theirs: Tensor, leaves: Sequence[Tensor]) -> None:
    """The same value and the same gradients, none of which is zero, to 1e-9."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    pairs = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True)
    for a, b in pairs:
        assert b.abs().max() > 1e-7
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def rotation(name: str, size: int) -> Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(random_tensor(name, size, size).detach())[0]
