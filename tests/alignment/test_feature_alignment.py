from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.alignment import (
    ACGANDiscriminator,
    Discriminator,
    FeatureAlignment,
    ProjectionDiscriminator,
    UnconditionalDiscriminator,
)
from lightning_condkd.functional.adversarial import AdversarialLoss
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.types import NetworkOutput, TaskSpec
from tests.reference import adversarial as reference

KINDS = [ACGANDiscriminator, ProjectionDiscriminator, UnconditionalDiscriminator]
SPEC = TaskSpec((3, 8, 8), num_classes=4, embedding_size=6)


def _alignment(
    discriminator: Discriminator, *, weight: float = 1.0, loss: AdversarialLoss = "bce", seed: int = 0
) -> FeatureAlignment:
    alignment = FeatureAlignment(discriminator, weight=weight, loss=loss)
    alignment.build(SPEC, seeded_generator(seed, "discriminator"))
    return alignment.double()


def _embeddings() -> tuple[Tensor, Tensor, Tensor]:
    condensed, synthetic = torch.randn(2, 8, 6, generator=seeded_generator(0, "batch"), dtype=torch.float64)
    return condensed.requires_grad_(), (synthetic + 1).detach().requires_grad_(), torch.arange(8) % 4


def _state(alignment: FeatureAlignment) -> dict[str, Tensor]:
    return deepcopy(alignment.state_dict())


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("loss", ["bce", "hinge"])
@pytest.mark.parametrize("on_synthetic", [False, True])
def test_terms_and_weights_follow_the_formulas(loss: AdversarialLoss, on_synthetic: bool) -> None:
    discriminator = ACGANDiscriminator((8,), class_weight=0.3, class_loss_on_synthetic=on_synthetic)
    alignment = _alignment(discriminator, weight=2.0, loss=loss)
    condensed, synthetic, labels = _embeddings()
    discriminating = alignment.discriminator_loss(condensed, synthetic, labels)
    generating = alignment.generator_loss(synthetic, labels)
    discriminator.eval()
    on_condensed, on_fake = discriminator(condensed, labels), discriminator(synthetic, labels)
    of_judge = {"bce": reference.discriminator_bce, "hinge": reference.discriminator_hinge}[loss]
    of_forger = {"bce": reference.generator_bce, "hinge": reference.generator_hinge}[loss]
    class_term = F.cross_entropy(on_condensed.class_logits, labels)
    fake_class_term = F.cross_entropy(on_fake.class_logits, labels)
    expected = {
        "discriminator": of_judge(on_condensed.realness, on_fake.realness),
        "discriminator_class": class_term + fake_class_term if on_synthetic else class_term,
        "alignment": of_forger(on_fake.realness),
        "alignment_class": fake_class_term,
    }
    values = {**discriminating.values, **generating.values}
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, rtol=0, atol=1e-10)
    assert discriminating.weights == {"discriminator": 1.0, "discriminator_class": 0.3}
    assert generating.weights == {"alignment": 2.0, "alignment_class": 0.6}


@pytest.mark.parametrize("kind", [ProjectionDiscriminator, UnconditionalDiscriminator])
def test_without_a_class_head_there_is_no_class_term(kind: type[Discriminator]) -> None:
    alignment = _alignment(kind((8,)))
    condensed, synthetic, labels = _embeddings()
    assert alignment.generator_loss(synthetic, labels).weights == {"alignment": 1.0}
    assert alignment.discriminator_loss(condensed, synthetic, labels).weights == {"discriminator": 1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_gradient_is_that_of_the_loss(kind: type[Discriminator]) -> None:
    alignment = _alignment(kind((8,)))
    _, synthetic, labels = _embeddings()
    assert torch.autograd.gradcheck(lambda x: alignment.generator_loss(x, labels).total(), synthetic)


def test_the_weight_rises_over_the_ramp() -> None:
    alignment = FeatureAlignment(ACGANDiscriminator(), weight=4.0, ramp_rounds=2)
    alignment.build(SPEC, seeded_generator(0, "discriminator"))
    _, synthetic, labels = _embeddings()
    output = NetworkOutput(torch.zeros(8, 4), synthetic)
    seen = [dict(alignment(output, labels, round_, Draw(0, 0)).weights) for round_ in range(4)]
    assert [weights["alignment"] for weights in seen] == [0.0, 2.0, 4.0, 4.0]
    assert alignment.generator_loss(synthetic, labels).weights["alignment"] == 4.0
    assert all(weights["alignment_class"] == weights["alignment"] for weights in seen)
    with pytest.raises(ValueError, match="ramp_rounds: expected a count of rounds"):
        FeatureAlignment(ramp_rounds=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_loss_reaches_embeddings_and_leaves_a_frozen_discriminator_alone(
    kind: type[Discriminator],
) -> None:
    alignment = _alignment(kind((8,))).requires_grad_(False)
    _, synthetic, labels = _embeddings()
    state = _state(alignment)
    alignment.generator_loss(synthetic, labels).total().backward()
    assert synthetic.grad is not None
    assert synthetic.grad.abs().amax(1).min() > 0
    assert all(parameter.grad is None for parameter in alignment.parameters())
    assert _equal(state, alignment.state_dict())
    assert alignment.discriminator.training


@pytest.mark.parametrize("kind", KINDS)
def test_the_discriminator_loss_reaches_all_of_the_discriminator_and_no_embedding(kind: type[Discriminator]) -> None:
    alignment = _alignment(kind((8,)))
    condensed, synthetic, labels = _embeddings()
    alignment.discriminator_loss(condensed, synthetic, labels).total().backward()
    assert condensed.grad is None
    assert synthetic.grad is None
    for name, parameter in alignment.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_accuracy_is_the_share_recognised_and_changes_nothing() -> None:
    alignment = _alignment(ProjectionDiscriminator((8,)))
    condensed, synthetic, labels = _embeddings()
    state = _state(alignment)
    accuracy = alignment.accuracy(condensed, synthetic, labels)
    assert _equal(state, alignment.state_dict())
    assert alignment.discriminator.training
    alignment.discriminator.eval()
    hits = [x > 0 for x in alignment.discriminator(condensed, labels).realness.tolist()]
    fake_hits = [x < 0 for x in alignment.discriminator(synthetic, labels).realness.tolist()]
    assert accuracy["discriminator_accuracy_condensed"].item() == pytest.approx(sum(hits) / 8)
    assert accuracy["discriminator_accuracy_synthetic"].item() == pytest.approx(sum(fake_hits) / 8)
    assert not any(value.requires_grad for value in accuracy.values())


@pytest.mark.parametrize("kind", KINDS)
def test_training_raises_the_accuracy_on_batches_that_differ(kind: type[Discriminator]) -> None:
    alignment = _alignment(kind((16,)))
    condensed, synthetic, labels = _embeddings()
    optimizer = alignment.optimizer()
    for _ in range(100):
        optimizer.zero_grad()
        alignment.discriminator_loss(condensed - 1, synthetic + 1, labels).total().backward()
        optimizer.step()
    assert all(value == 1 for value in alignment.accuracy(condensed - 1, synthetic + 1, labels).values())


def test_a_resumed_game_is_the_uninterrupted_one_bit_for_bit() -> None:
    condensed, synthetic, labels = _embeddings()

    def steps(alignment: FeatureAlignment, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            alignment.discriminator_loss(condensed, synthetic, labels).total().backward()
            optimizer.step()

    whole = _alignment(ACGANDiscriminator((8,)))
    optimizer = whole.optimizer()
    steps(whole, optimizer, 3)
    saved, saved_optimizer = _state(whole), deepcopy(optimizer.state_dict())
    steps(whole, optimizer, 3)
    resumed = _alignment(ACGANDiscriminator((8,)), seed=1)
    resumed.load_state_dict(saved)
    resumed_optimizer = resumed.optimizer()
    resumed_optimizer.load_state_dict(saved_optimizer)
    steps(resumed, resumed_optimizer, 3)
    assert _equal(whole.state_dict(), resumed.state_dict())
    assert not _equal(saved, resumed.state_dict())


def test_defaults() -> None:
    alignment = FeatureAlignment()
    alignment.build(SPEC, seeded_generator(0, "discriminator"))
    assert isinstance(alignment.discriminator, ACGANDiscriminator)
    assert alignment.weight == 5
    assert alignment.active
    assert not FeatureAlignment(weight=0.0).active
    group = alignment.optimizer().param_groups[0]
    assert (group["lr"], group["betas"]) == (1e-3, (0.5, 0.999))
    assert len(group["params"]) == len(list(alignment.parameters()))


@pytest.mark.parametrize("loss", ["discriminator_loss", "accuracy"])
def test_batches_that_do_not_match_are_refused(loss: str) -> None:
    alignment = _alignment(ProjectionDiscriminator((8,)))
    condensed, synthetic, labels = _embeddings()
    for batch in ((condensed[:4], synthetic, labels), (condensed, synthetic, labels[:4])):
        with pytest.raises(ValueError, match="expected one condensed row for each synthetic row and label"):
            getattr(alignment, loss)(*batch)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="weight: expected zero"):
        FeatureAlignment(weight=-1.0)


def test_an_unknown_loss_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="expected 'bce' or 'hinge'"):
        FeatureAlignment(loss="wasserstein")
