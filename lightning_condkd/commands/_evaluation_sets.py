"""Training sets of an evaluation: the condensed set or real images, with stored labels or those of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_condkd.commands._evaluation_report import RANDOM_REAL, TrainingSet
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.evaluation.batches import TeacherLabels
from lightning_condkd.formats.soft_labels import as_probabilities
from lightning_condkd.models import Observer
from lightning_condkd.models.checks import check_classifier
from lightning_condkd.pixels import parts, to_pixels
from lightning_condkd.randomness import draw_by_class, seeded_generator

LabelChoice = Literal["all", "hard", "soft", "teacher"]


def random_real(source: ImageSource, counts: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Draw real images without replacement, with a given number for each class.

    Args:
        source: the training images.
        counts: number of images of each class; a smaller class gives all of its images.
        seed: seed of the choice.

    Returns:
        Images ``(N, C, H, W)``, pixels in the units of [0, 1], and classes ``(N,)`` int64, by class.
    """
    generator = seeded_generator(seed, "random real")
    rows = torch.cat(draw_by_class(source.class_rows, counts, generator))
    return to_pixels(source.images[rows]), source.labels[rows]


def teacher_labels(
    teacher: Observer | None, temperature: float | None, labels: LabelChoice, test: ImageSource
) -> TeacherLabels | None:
    """Return the teacher as a source of labels, if there is one.

    Args:
        teacher: the trained network.
        temperature: temperature of the distillation; ``None`` for 20.
        labels: the user's choice of labels.
        test: the held-out images.

    Raises:
        ValueError: if the teacher does not fit the data, is not used with these labels, or is needed but missing.
    """
    if teacher is None:
        if labels == "teacher" or temperature is not None:
            raise ValueError("labels or temperature need a teacher, but there is none: give teacher, or leave them out")
        return None
    asked = TeacherLabels(teacher) if temperature is None else TeacherLabels(teacher, temperature)
    if not asked.temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}; 20 is usual")
    if labels in ("hard", "soft"):
        raise ValueError(f"teacher: it is not used with labels={labels!r}: leave it out, or set labels to all")
    check_classifier("teacher", teacher.eval(), test.image_shape, test.num_classes)
    return asked


def training_sets(
    condensed: CondensedSet,
    labels: LabelChoice,
    asked: TeacherLabels | None,
    train: ImageSource | None,
    seed: int,
    *,
    paired: bool = False,
) -> list[TrainingSet]:
    """Return all training sets of the evaluation.

    Args:
        condensed: the set.
        labels: the user's choice of labels.
        asked: the teacher, if there is one.
        train: real images; ``None`` if they are gone.
        seed: seed of the choice of real images.
        paired: whether the random real images need labels of each kind that the set has: soft ones are then predicted
            by the teacher, once for each image.

    Raises:
        ValueError: if the set does not have these labels.
    """
    real = None if train is None else random_real(train, condensed.counts.tolist(), seed)
    images, name = condensed.pixels(slice(None)), condensed.info.method
    sets = [TrainingSet(name, kind, images, own) for kind, own in _own_labels(condensed, labels).items()]
    if real is not None and labels != "teacher":
        sets.append(TrainingSet(RANDOM_REAL, "hard", *real))
        if paired and asked is not None and any(one.label_kind == "soft" for one in sets):
            sets.append(TrainingSet(RANDOM_REAL, "soft", real[0], _predicted(asked, real[0])))
    if asked is not None:
        sources = {name: images} if real is None else {name: images, RANDOM_REAL: real[0]}
        sets += [TrainingSet(source, "teacher", pixels, asked) for source, pixels in sources.items()]
    return sets


def _predicted(asked: TeacherLabels, images: Tensor) -> Tensor:
    """Return the teacher's probabilities for images, ``(N, K)``."""
    return torch.cat([asked(images[rows][None])[0].softmax(1) for rows in parts(images)])


def _own_labels(condensed: CondensedSet, labels: LabelChoice) -> dict[str, Tensor]:
    """Return the stored labels of the chosen kinds, by kind."""
    soft = condensed.soft_labels
    if labels == "soft" and soft is None:
        raise ValueError("labels: the set has no soft labels, only hard ones: set labels to hard, or give a teacher")
    if soft is not None:
        soft = as_probabilities(soft, condensed.info.label_kind)
    kinds = {"hard": condensed.labels, "soft": soft}
    return {kind: own for kind, own in kinds.items() if own is not None and labels in ("all", kind)}
