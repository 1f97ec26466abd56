from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd.inversion.parts.competition import Competition
from lightning_condkd.randomness import seeded_generator
from tests.reference import deep_inversion as reference


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = seeded_generator(0, "logits")
    teacher, student = (3 * torch.randn(6, 5, generator=generator) for _ in range(2))
    return teacher, student.requires_grad_()


@pytest.mark.parametrize(
    "arguments", [{}, {"temperature": 1.0}, {"clamp": 0.1}, {"reduction": "elementwise"}, {"weight": 0.2}]
)
def test_the_loss_is_one_minus_the_divergence(logits: tuple[Tensor, Tensor], arguments: dict[str, Any]) -> None:
    ours = Competition(**arguments).loss(*logits)
    form = {"temperature": 3.0, "clamp": 0.01, "reduction": "batchmean", **arguments}
    form.pop("weight", None)  # the loss is without it
    theirs = 1 - reference.jensen_shannon(*logits, **form)
    assert 0 < theirs < 1
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits[1])[0] for loss in (ours, theirs)]
    assert gradients[0].any()
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_loss_stays_between_zero_and_one() -> None:
    teacher, student = 100 * torch.eye(2), 100 * torch.eye(2).flip(1)
    assert Competition(temperature=1.0).loss(teacher, student) == 0  # their divergence is above 1
    assert Competition().loss(teacher, teacher) == 1
    close = teacher[:, :1] * torch.tensor([[1.0, 0.9, 0.8]])
    assert Competition(clamp=0.4).loss(close, close.flip(1)) == 1  # the clamp makes it negative


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"temperature": 0.0}, "expected temperature > 0, got 0.0"),
        ({"clamp": 0.5}, r"expected clamp, the smallest probability, in .0, 0.5., got 0.5"),
        ({"clamp": -0.1}, r"expected clamp, the smallest probability, in .0, 0.5., got -0.1"),
        ({"reduction": "mean"}, "expected reduction 'batchmean' or 'elementwise', got 'mean'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Competition(**arguments)
