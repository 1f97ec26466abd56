from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional.divergence import jensen_shannon
from lightning_condkd.randomness import seeded_generator
from tests.reference import deep_inversion as reference


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = seeded_generator(0, "logits")
    teacher, student = (6 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return teacher.requires_grad_(), student.requires_grad_()


@pytest.mark.parametrize("reduction", ["batchmean", "elementwise"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("clamp", [0.01, 0.1])
def test_it_follows_the_formula(
    logits: tuple[Tensor, Tensor], temperature: float, clamp: float, reduction: Literal["batchmean", "elementwise"]
) -> None:
    ours = jensen_shannon(*logits, temperature=temperature, clamp=clamp, reduction=reduction)
    theirs = reference.jensen_shannon(*logits, temperature, clamp, reduction)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    pairs = zip(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True)
    for a, b in pairs:
        assert a.abs().max() > 1e-4
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_it_is_symmetric_and_zero_between_equals(logits: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(jensen_shannon(*logits), jensen_shannon(*reversed(logits)))
    assert jensen_shannon(logits[0], logits[0]) == 0
    assert jensen_shannon(logits[0], logits[0] + 5) < 1e-12  # logits count up to a constant


def test_the_forms_differ_by_the_number_of_classes(logits: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(5 * jensen_shannon(*logits, reduction="elementwise"), jensen_shannon(*logits))


def test_certain_and_contrary_predictions_are_more_than_one_apart() -> None:
    """The order of the arguments of KL: the textbook's form never exceeds log 2."""
    teacher, student = 100 * torch.eye(2), 100 * torch.eye(2).flip(1)
    assert 1.5 < jensen_shannon(teacher, student, temperature=1.0) < 1.7
    assert 20 < jensen_shannon(teacher, student, temperature=1.0, clamp=0.0) < 50


def test_without_clamp_nothing_is_infinite(logits: tuple[Tensor, Tensor]) -> None:
    value = jensen_shannon(*(1e4 * x for x in logits), clamp=0.0)
    assert bool(value.isfinite())
    assert all(bool(gradient.isfinite().all()) for gradient in torch.autograd.grad(value, logits))


def test_classes_below_the_clamp_have_no_gradient() -> None:
    generator = seeded_generator(0, "many")
    teacher, student = (torch.randn(4, 1000, generator=generator).requires_grad_() for _ in range(2))
    assert not torch.autograd.grad(jensen_shannon(teacher, student), teacher)[0].any()
    assert torch.autograd.grad(jensen_shannon(teacher, student, clamp=1e-5), teacher)[0].all()


def test_half_precision_is_computed_in_float32(logits: tuple[Tensor, Tensor]) -> None:
    assert jensen_shannon(*(x.bfloat16() for x in logits)).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"temperature": 0.0}, "temperature: expected a positive number, got 0.0"),
        ({"clamp": 0.5}, r"clamp: expected the smallest probability, in .0, 0.5., got 0.5"),
        ({"reduction": "mean"}, "expected 'batchmean' or 'elementwise', got 'mean'"),
    ],
)
def test_arguments_are_checked(logits: tuple[Tensor, Tensor], arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        jensen_shannon(*logits, **arguments)
