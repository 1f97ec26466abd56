from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional import divergence
from lightning_condkd.randomness import seeded_generator
from tests.reference import kd as reference


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = seeded_generator(0, "logits")
    student, teacher = (3 * torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)).unbind()
    return student.requires_grad_(), teacher.requires_grad_()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kd_divergence_and_its_gradients_follow_the_formula(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    ours = divergence.kd_divergence(*logits, temperature)
    theirs = reference.kd_divergence(*logits, temperature)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    for a, b in zip(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_logits_l1_and_its_gradient_follow_the_formula(logits: tuple[Tensor, Tensor]) -> None:
    ours, theirs = divergence.logits_l1(*logits), reference.logits_l1(*logits)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    for a, b in zip(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_agreement_follows_the_formula(logits: tuple[Tensor, Tensor]) -> None:
    share = divergence.agreement(*logits)
    assert share.item() == pytest.approx(reference.agreement(*logits))
    assert 0 < share < 1
    assert divergence.agreement(logits[0], 2 * logits[0] + 1) == 1


def test_kd_divergence_is_zero_only_for_equal_predictions(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    assert divergence.kd_divergence(teacher + 5, teacher, 2.0).abs() < 1e-12
    assert divergence.kd_divergence(student, teacher, 2.0) > 1e-3


def test_kd_divergence_is_of_the_teacher_against_the_student() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[2.0, 0.0]]).double()
    forward, backward = divergence.kd_divergence(student, teacher, 1.0), divergence.kd_divergence(teacher, student, 1.0)
    p = torch.sigmoid(torch.tensor(2.0)).item()
    assert forward.item() == pytest.approx(
        p * torch.tensor(2 * p).log().item() + (1 - p) * torch.tensor(2 - 2 * p).log().item(), abs=1e-6
    )
    assert abs(forward - backward) > 0.05


def test_high_temperature_matches_centred_logits(logits: tuple[Tensor, Tensor]) -> None:
    # Section 2.1 of the paper: the gradient tends to (z_k - v_k) / K for logits of zero mean, here in a batch mean.
    student, teacher = ((x - x.mean(1, keepdim=True)).detach().requires_grad_() for x in logits)
    (gradient,) = torch.autograd.grad(divergence.kd_divergence(student, teacher, 1e4), student)
    torch.testing.assert_close(gradient, (student - teacher) / student.numel(), rtol=0, atol=1e-4)


def test_kd_divergence_stays_finite_for_extreme_logits() -> None:
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = divergence.kd_divergence(student, -student.detach(), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_kd_divergence_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: expected a positive number"):
        divergence.kd_divergence(torch.zeros(1, 2), torch.zeros(1, 2), temperature)
