from __future__ import annotations

import pytest
import torch

from lightning_condkd.distillation import DistillationLoss, KLDistillation, LogitsL1Distillation
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.types import NetworkOutput
from tests.reference import kd as reference

STUDENT, TEACHER = (
    NetworkOutput(logits.requires_grad_())
    for logits in torch.randn(2, 6, 5, generator=seeded_generator(0, "logits"), dtype=torch.float64)
)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_kl_distillation_is_the_formula(temperature: float) -> None:
    expected = reference.kd_divergence(STUDENT.logits, TEACHER.logits, temperature)
    torch.testing.assert_close(KLDistillation(temperature)(STUDENT, TEACHER, None), expected, rtol=0, atol=1e-10)


def test_logits_l1_distillation_is_the_formula() -> None:
    expected = reference.logits_l1(STUDENT.logits, TEACHER.logits)
    torch.testing.assert_close(LogitsL1Distillation()(STUDENT, TEACHER, None), expected, rtol=0, atol=1e-10)


def test_the_default_temperature_is_the_one_of_fast_and_cmi() -> None:
    assert KLDistillation().temperature == 20.0


@pytest.mark.parametrize("loss", [KLDistillation(), LogitsL1Distillation()])
def test_losses_have_no_state_and_need_only_logits(loss: DistillationLoss) -> None:
    assert not loss.state_dict()
    assert not loss.needs_embedding


def test_a_temperature_that_is_not_positive_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="temperature: expected a positive number, got 0"):
        KLDistillation(0.0)


def test_a_loss_without_forward_says_so() -> None:
    class Forgotten(DistillationLoss):
        pass

    with pytest.raises(NotImplementedError, match=r"Forgotten\.forward"):
        Forgotten()(STUDENT, TEACHER, None)
