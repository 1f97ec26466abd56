"""A whole run on the handwritten digits from one condensed image per class: the student learns from inverted images."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.alignment import FeatureAlignment, ProjectionDiscriminator
from lightning_condkd.augment import CropFlip
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.inversion import Fast, GeneratorSettings, Inversion, NoInversion
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.modules import CondKD
from lightning_condkd.randomness import seeded_generator, seeded_initialization
from lightning_condkd.rounds import Cadence
from tests.helpers import toy

CROP = CropFlip(padding=1, flip_probability=0.0)
ROUNDS, DISTILL_STEPS = 8, 40
BOUND = 0.5  # measured over seeds: 0.58 to 0.62 with inversion, 0.22 to 0.30 without


def _accuracies(inversion: Inversion, alignment: FeatureAlignment | None, rounds: int, seed: int) -> dict[str, float]:
    mean, std = (0.3059,), (0.3754,)
    teacher = Observer(DigitsNet(width=32), mean, std, weights="package:digits-teacher.safetensors")
    with seeded_initialization(seeded_generator(seed, "student")):
        student = DigitsNet(width=16)
    model = CondKD(
        teacher,
        student,
        inversion,
        alignment,
        augment=CROP,
        student_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        seed=seed,
    )
    held_out = load_digits_split(train=False)
    loader = DataLoader(TensorDataset(held_out.images, held_out.labels), batch_size=len(held_out))
    trainer = toy.silent_trainer(max_epochs=rounds)
    trainer.fit(model, CondensedDataModule("package:digits-dm-1ipc.safetensors", batch_size=64))
    return dict(trainer.test(model, loader, verbose=False)[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_student_learns_the_digits(seed: int) -> None:
    cadence = Cadence(synthesis_steps=8, distill_steps=DISTILL_STEPS, warmup_rounds=1)
    inversion = Fast(
        cadence=cadence, batch_size=64, generator=GeneratorSettings(width=12, latent_size=32), augment=CROP
    )
    alignment = FeatureAlignment(ProjectionDiscriminator(), weight=5.0)
    measured = _accuracies(inversion, alignment, ROUNDS, seed)
    assert measured["test/teacher_accuracy"] > 0.95
    assert measured["test/student_accuracy"] > BOUND


def test_from_condensed_images_alone_it_does_not() -> None:
    """The control: as many student steps on the ten condensed images."""
    measured = _accuracies(NoInversion(cadence=Cadence(0, DISTILL_STEPS)), None, ROUNDS - 1, seed=0)
    assert measured["test/teacher_accuracy"] > 0.95
    assert measured["test/student_accuracy"] < BOUND - 0.1
