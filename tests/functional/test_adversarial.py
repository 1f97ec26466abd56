from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional import adversarial
from lightning_condkd.randomness import seeded_generator
from tests.reference import adversarial as reference

DISCRIMINATOR = {"bce": reference.discriminator_bce, "hinge": reference.discriminator_hinge}
GENERATOR = {"bce": reference.generator_bce, "hinge": reference.generator_hinge}


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = seeded_generator(0, "logits")
    real = 2 * torch.randn(6, generator=generator, dtype=torch.float64)
    synthetic = 2 * torch.randn(9, generator=generator, dtype=torch.float64)
    return real.requires_grad_(), synthetic.requires_grad_()


@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_discriminator_loss_and_its_gradients_follow_the_formula(
    logits: tuple[Tensor, Tensor], kind: adversarial.AdversarialLoss
) -> None:
    ours, theirs = adversarial.discriminator_loss(*logits, kind), DISCRIMINATOR[kind](*logits)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    for a, b in zip(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_generator_loss_and_its_gradient_follow_the_formula(
    logits: tuple[Tensor, Tensor], kind: adversarial.AdversarialLoss
) -> None:
    ours, theirs = adversarial.generator_loss(logits[1], kind), GENERATOR[kind](logits[1])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(ours, logits[1]), torch.autograd.grad(theirs, logits[1]), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_the_two_sides_pull_synthetic_logits_in_opposite_directions(kind: adversarial.AdversarialLoss) -> None:
    synthetic = torch.tensor([-0.5, 0.5], requires_grad=True)
    (gradient,) = torch.autograd.grad(adversarial.discriminator_loss(torch.zeros(2), synthetic, kind), synthetic)
    (forger,) = torch.autograd.grad(adversarial.generator_loss(synthetic, kind), synthetic)
    assert (gradient > 0).all()
    assert (forger < 0).all()


def test_the_generator_does_not_saturate() -> None:
    synthetic = torch.tensor([-50.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(adversarial.generator_loss(synthetic, "bce"), synthetic)
    assert gradient.item() == pytest.approx(-1.0)


def test_hinge_ignores_what_is_beyond_the_margin() -> None:
    real, synthetic = torch.tensor([1.5], requires_grad=True), torch.tensor([-1.5], requires_grad=True)
    loss = adversarial.discriminator_loss(real, synthetic, "hinge")
    assert loss == 0
    assert all(g == 0 for g in torch.autograd.grad(loss, [real, synthetic]))


@pytest.mark.parametrize(
    "call",
    [
        lambda kind: adversarial.discriminator_loss(torch.zeros(1), torch.zeros(1), kind),
        lambda kind: adversarial.generator_loss(torch.zeros(1), kind),
    ],
)
def test_an_unknown_form_is_refused(call: Callable[[str], Tensor]) -> None:
    with pytest.raises(ValueError, match="expected 'bce' or 'hinge', got 'wasserstein'"):
        call("wasserstein")
