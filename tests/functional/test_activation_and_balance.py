from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional import divergence, inversion
from lightning_condkd.randomness import seeded_generator
from tests.reference import generative as reference


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = seeded_generator(0, "logits")
    teacher, student = (3 * torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)).unbind()
    return teacher.requires_grad_(), student.requires_grad_()


def _assert_same(ours: Tensor, theirs: Tensor, *leaves: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, check_dtype=False)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        assert a.abs().max() > 1e-4
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_activation_loss_follows_the_formula(logits: tuple[Tensor, Tensor]) -> None:
    _assert_same(inversion.activation_loss(logits[0]), reference.activation(logits[0]), logits[0])


@pytest.mark.parametrize(("log10", "base"), [(False, math.e), (True, 10.0)])
def test_balance_loss_follows_the_formula(logits: tuple[Tensor, Tensor], log10: bool, base: float) -> None:
    _assert_same(inversion.balance_loss(logits[0], log10=log10), reference.balance(logits[0], base), logits[0])


@pytest.mark.parametrize("reduction", ["batchmean", "elementwise"])
def test_negative_divergence_follows_the_formula(
    logits: tuple[Tensor, Tensor], reduction: Literal["batchmean", "elementwise"]
) -> None:
    ours = divergence.negative_divergence(*logits, reduction)
    _assert_same(ours, reference.negative_divergence(*logits, per_class=reduction == "elementwise"), *logits)


def test_balance_is_least_where_the_batch_holds_all_classes_in_equal_parts() -> None:
    even, one = 50 * torch.eye(4), 50 * torch.eye(4)[[0, 0, 0, 0]]
    assert inversion.balance_loss(even).item() == pytest.approx(-math.log(4))
    assert inversion.balance_loss(even, log10=True).item() == pytest.approx(-math.log10(4))
    assert inversion.balance_loss(torch.zeros(4, 4)).item() == pytest.approx(-math.log(4))  # unsure is balanced too
    assert inversion.balance_loss(one).item() == pytest.approx(0, abs=1e-6)


def test_balance_of_a_collapsed_batch_has_a_finite_gradient() -> None:
    """A plain mean of probabilities underflows to 0 for a class that nobody predicts."""
    logits = (1e4 * torch.eye(4)[[0, 0, 0, 0]]).requires_grad_()
    loss = inversion.balance_loss(logits)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_losses_are_computed_in_float32_at_least() -> None:
    half = torch.full((2, 3), 300.0, dtype=torch.float16)
    losses = inversion.activation_loss(half), inversion.balance_loss(half), divergence.negative_divergence(half, half)
    assert all(loss.dtype == torch.float32 for loss in losses)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction 'batchmean' or 'elementwise', got 'sum'"):
        divergence.negative_divergence(torch.zeros(1, 2), torch.zeros(1, 2), "sum")  # type: ignore[arg-type]
