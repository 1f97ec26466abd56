"""Discriminators, adversarial losses and mixes of the transfer set in whole runs."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import pytest
import torch

from lightning_condkd.alignment import (
    ACGANDiscriminator,
    Discriminator,
    FeatureAlignment,
    ProjectionDiscriminator,
    UnconditionalDiscriminator,
)
from lightning_condkd.inversion import NoInversion, SmoothNoise
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.rounds import Cadence
from tests.helpers import toy

KINDS = [ProjectionDiscriminator, ACGANDiscriminator, UnconditionalDiscriminator]
SHARE = "distillation/condensed_share"


def _finite(run: toy.Run) -> bool:
    return all(map(math.isfinite, run.metrics.values())) and all(bool(v.isfinite().all()) for v in run.state().values())


@cache
def _aligned(kind: type[Discriminator], loss: Literal["bce", "hinge"]) -> toy.Run:
    return toy.fit(toy.condkd(alignment=FeatureAlignment(kind(hidden=(16,)), loss=loss)))


@pytest.mark.parametrize("loss", ["bce", "hinge"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_discriminator_plays_with_every_loss(kind: type[Discriminator], loss: Literal["bce", "hinge"]) -> None:
    run = _aligned(kind, loss)
    assert _finite(run)
    assert len(run.bank) == 36
    class_terms = {name for name in run.metrics if name.endswith("_class")}
    expected = {"synthesis/alignment_class", "alignment/discriminator_class"} if kind is ACGANDiscriminator else set()
    assert class_terms == expected
    for side in ("condensed", "synthetic"):
        assert 0 <= run.metrics[f"alignment/discriminator_accuracy_{side}"] <= 1


def test_discriminators_and_losses_lead_to_different_images() -> None:
    runs = [_aligned(kind, "bce") for kind in KINDS] + [_aligned(ProjectionDiscriminator, "hinge")]
    images = {bytes(run.bank.images.flatten().tolist()) for run in runs}
    assert len(images) == len(runs)


@pytest.mark.parametrize(("mix", "share"), [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5), ("two_term", 0.5), (1.0, 1.0)])
def test_a_fixed_mix_gives_its_share(mix: str | float, share: float) -> None:
    run = toy.fit(toy.condkd(), mix=mix)
    assert _finite(run)
    assert run.metrics[SHARE] == share


def test_a_union_gives_the_share_of_its_draws() -> None:
    """In the last round the set holds 6 condensed and 36 synthetic images; its distillation units are 20 to 23."""
    run = toy.fit(toy.condkd())
    drawn = [torch.randint(42, (8,), generator=seeded_generator(toy.SEED, "transfer", step)) for step in range(20, 24)]
    assert run.metrics[SHARE] == pytest.approx(float((torch.stack(drawn) < 6).float().mean()))
    assert 0 < run.metrics[SHARE] < 0.5


def test_two_term_is_the_sum_of_two_means() -> None:
    """At half the learning rate it is the plain loss on a batch that is half condensed."""
    runs = [
        toy.fit(
            toy.condkd(student_optimizer=lambda parameters, rate=rate: torch.optim.SGD(parameters, rate, momentum=0.9)),
            mix=mix,
            precision="64-true",
        )
        for mix, rate in (("two_term", 0.05), (0.5, 0.1))
    ]
    assert runs[0].metrics["distillation/loss"] == pytest.approx(2 * runs[1].metrics["distillation/loss"], rel=1e-5)
    states = [toy.student_of(run) for run in runs]
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-10) for name in states[0])
    assert torch.equal(runs[0].bank.images, runs[1].bank.images)


def test_without_inversion_the_student_sees_condensed_images_alone() -> None:
    cadence = Cadence(synthesis_steps=0, distill_steps=4)
    runs = [toy.fit(toy.condkd(NoInversion(cadence=cadence), alignment)) for alignment in (None, FeatureAlignment())]
    assert runs[0].metrics[SHARE] == 1
    assert len(runs[0].bank) == 0
    assert toy.same(toy.student_of(runs[0]), toy.student_of(runs[1]))
    untrained = dict(toy.network("student 1").state_dict())
    assert not toy.same(toy.student_of(runs[0]), untrained)


def test_smooth_noise_is_labelled_by_the_teacher() -> None:
    cadence = Cadence(synthesis_steps=1, distill_steps=4)
    run = toy.fit(toy.condkd(SmoothNoise(cadence=cadence, batch_size=12)))
    images = run.model.inversion.kept_images
    assert torch.equal(run.bank.labels[-12:], run.model.teacher(images).logits.argmax(1))
    assert len(run.bank.labels.unique()) > 1
    assert _finite(run)


def test_the_bank_is_described() -> None:
    run = toy.fit(toy.condkd())
    counts = run.bank.labels.bincount(minlength=toy.CLASSES) / 36
    assert run.metrics["bank/images"] == 36
    assert run.metrics["bank/clamped_share"] == 0
    assert run.metrics["bank/label_share_min"] == pytest.approx(float(counts.min()))
    assert run.metrics["bank/label_share_max"] == pytest.approx(float(counts.max()))
