"""Without alignment the module is Fast: a run through the trainer against a bare loop with the same random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.augment import CropFlip
from lightning_condkd.inversion import GeneratorSettings
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.rounds import Cadence
from tests.helpers import toy
from tests.reference import fast as reference

RECIPE = reference.Recipe(
    rounds=3,
    warmup_rounds=1,
    synthesis_steps=4,
    distill_steps=5,
    synthesis_batch=12,
    distill_batch=8,
    latent_size=toy.LATENT,
    generator_rate=0.05,
    latent_rate=1.0,
    class_weight=0.5,
    bn_weight=2.0,
    adversarial_weight=1.3,
    momentum=0.8,
    reptile=False,
    reset_round=1,
    padding=3,
)


class Theirs(NamedTuple):
    outcome: reference.Outcome
    student: nn.Module


@contextmanager
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def _reference(recipe: reference.Recipe) -> Theirs:
    teacher, student = toy.network("teacher").double().eval(), toy.network("student 1").double()
    generator, condensed = toy.small_generator().double(), toy.condensed_set().images.double()
    with _float64():
        outcome = reference.run(
            recipe,
            teacher,
            student,
            generator,
            condensed,
            toy.CLASSES,
            normalize=lambda images: (images - 0.25) / 0.5,
            stream=partial(seeded_generator, toy.SEED),
            shifts=CropFlip(recipe.padding).sample,
        )
    return Theirs(outcome, student)


def _ours(recipe: reference.Recipe) -> toy.Run:
    crop = CropFlip(recipe.padding)
    inversion = toy.fast(
        cadence=Cadence(recipe.synthesis_steps, recipe.distill_steps, warmup_rounds=recipe.warmup_rounds),
        batch_size=recipe.synthesis_batch,
        generator=GeneratorSettings(lr=recipe.generator_rate),
        latent_lr=recipe.latent_rate,
        class_weight=recipe.class_weight,
        bn_weight=recipe.bn_weight,
        adversarial_weight=recipe.adversarial_weight,
        bn_momentum=recipe.momentum,
        meta_update="reptile" if recipe.reptile else "fomaml",
        reset_round=recipe.reset_round,
        augment=crop,
    )
    model = toy.condkd(inversion, augment=crop)
    return toy.fit(model, max_epochs=recipe.rounds, batch_size=recipe.distill_batch, precision="64-true")


def _largest_difference(ours: nn.Module, theirs: nn.Module) -> float:
    states: list[dict[str, Tensor]] = [dict(module.state_dict()) for module in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    return max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0])


@pytest.fixture(scope="module")
def ours() -> toy.Run:
    return _ours(RECIPE)


@pytest.mark.parametrize("reptile", [False, True], ids=["fomaml", "reptile"])
def test_three_rounds_equal_a_bare_loop(reptile: bool) -> None:
    recipe = replace(RECIPE, reptile=reptile)
    ours, (outcome, student) = _ours(recipe), _reference(recipe)
    assert torch.equal(ours.bank.images, torch.cat(outcome.images))
    assert torch.equal(ours.bank.labels, torch.cat(outcome.labels))
    assert ours.bank.rounds.tolist() == [r for r in range(3) for _ in range(12)]
    assert ours.model.student.network.linear.weight.dtype == torch.float64
    assert _largest_difference(ours.model.student.network, student) < 1e-10
    assert _largest_difference(ours.model.inversion.meta, outcome.meta) < 1e-10


@pytest.mark.parametrize(
    "change",
    [
        {"class_weight": 0.51},
        {"bn_weight": 2.1},
        {"adversarial_weight": 1.2},
        {"momentum": 0.79},
        {"reptile": True},
        {"reset_round": 0},
        {"latent_rate": 1.01},
        {"student_rate": 0.201},
        {"temperature": 19.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_comparison_sees_a_small_deviation(change: dict[str, float], ours: toy.Run) -> None:
    _, student = _reference(replace(RECIPE, **change))
    assert _largest_difference(ours.model.student.network, student) > 1e-6


def test_the_comparison_meets_a_loss_that_rises_again() -> None:
    """Else it could not tell the lowest-loss batch from the last."""
    outcome, _ = _reference(RECIPE)
    assert set(outcome.chosen_steps) - {RECIPE.synthesis_steps - 1}
