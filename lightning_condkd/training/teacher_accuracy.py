"""Accuracy of a teacher on given images, and a warning if it is close to chance."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.models import Observer
from lightning_condkd.progress import each

CAUSES = (
    "Possible causes: another order of the classes, a wrong mean or std of the teacher, weights that were not loaded "
    "or are of another dataset, and pixels that are not in the units of [0, 1]"
)


def teacher_accuracy(condensed: CondensedSet, teacher: Observer, most: int | None = None) -> float:
    """Return the share of condensed images for which a teacher, set to eval, predicts the hard label.

    Args:
        condensed: the set.
        teacher: the classifier with its own normalisation, on its device.
        most: largest number of images, evenly spaced; ``None`` for all.

    Raises:
        ValueError: if teacher and set have different numbers of classes.
    """
    if teacher.num_classes != condensed.num_classes:
        raise ValueError(
            f"the teacher has {teacher.num_classes} classes, the condensed set has {condensed.num_classes}: "
            "give the teacher of this dataset"
        )
    count = len(condensed) if most is None else min(len(condensed), most)
    weights, right = next(teacher.eval().parameters(), torch.empty(0)), 0
    # The uncompiled network, since a compiled one would be compiled again for this batch.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        parts = torch.split(torch.linspace(0, len(condensed) - 1, count).round().long(), 250)
        for rows in each(parts, "testing the teacher", len(parts), "batches"):
            predictions = teacher(condensed.pixels(rows, weights.device).to(weights)).logits.argmax(1)
            right += int((predictions.cpu() == condensed.labels[rows]).sum())
    return right / count


def near_chance(accuracy: float, num_classes: int) -> bool:
    """Return whether an accuracy is below twice chance, or for two classes below 0.75 (our default).

    Args:
        accuracy: share of correct predictions.
        num_classes: number of classes K.

    Example:
        >>> near_chance(0.19, 10), near_chance(0.66, 10), near_chance(0.7, 2), near_chance(0.8, 2)
        (True, False, True, False)
    """
    chance = 1 / num_classes
    return accuracy < min(2 * chance, (1 + chance) / 2)


def remark_on_accuracy(accuracy: float, num_classes: int, images: str) -> None:
    """Warn if a teacher's accuracy is close to chance.

    Args:
        accuracy: its share of correct predictions.
        num_classes: number of classes K.
        images: description of the images.
    """
    if near_chance(accuracy, num_classes):
        rank_zero_warn(
            f"the teacher is right on {100 * accuracy:.1f} % of {images}, which is close to chance "
            f"({100 / num_classes:.1f} %): a student cannot learn from it. {CAUSES}"
        )


def remark_on_condensed(teacher: Observer, condensed: CondensedSet, most: int = 1000) -> None:
    """Warn if a teacher's accuracy on condensed images is close to chance.

    Args:
        teacher: the frozen teacher, on its device.
        condensed: the set.
        most: largest number of images.
    """
    accuracy = teacher_accuracy(condensed, teacher, most)
    remark_on_accuracy(accuracy, condensed.num_classes, f"{min(len(condensed), most)} condensed images")
