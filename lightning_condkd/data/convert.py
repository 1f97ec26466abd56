"""Conversion of a file in circulation, with a report of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.importers import import_condensed
from lightning_condkd.models.observer import Observer


def convert(
    source: str | Path,
    output: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    labels: str | Path | None = None,
    run: int | None = None,
    whitened: bool | None = None,
    teacher: Observer | None = None,
) -> str:
    """Write a file in circulation as a condensed set of ours and return a report on it.

    Args:
        source: the file, or the images file of a pair.
        output: target, ending in ``.safetensors``.
        dataset: the dataset, where the name of the file does not tell.
        mean: channel means that the source used.
        std: channel standard deviations that the source used.
        labels: labels file of a pair (MTT family).
        run: which run to take (DC family); by default the last.
        whitened: whether the images are whitened (MTT family).
        teacher: also reports its top-1 accuracy on the set, with a warning when that is close to chance.
    """
    condensed = import_condensed(source, dataset=dataset, mean=mean, std=std, labels=labels, run=run, whitened=whitened)
    condensed.save(output)
    report = f"{condensed.describe()}\nwritten to {output}"
    return report if teacher is None else f"{report}\n{_judge(teacher_accuracy(condensed, teacher), condensed)}"


@torch.no_grad()
def teacher_accuracy(condensed: CondensedSet, teacher: Observer, batch_size: int = 256) -> float:
    """Return the share of condensed images that a teacher, set to eval, gives their label.

    Args:
        condensed: the set.
        teacher: the classifier with its own normalisation.
        batch_size: images in one forward pass.

    Raises:
        ValueError: teacher and set have different numbers of classes.
    """
    if teacher.num_classes != condensed.num_classes:
        raise ValueError(
            f"the teacher knows {teacher.num_classes} classes, the condensed set has {condensed.num_classes}: "
            "give the teacher of this dataset"
        )
    teacher.eval()
    device = next(teacher.parameters()).device
    starts = range(0, len(condensed), batch_size)
    batches = (condensed.pixels(slice(start, start + batch_size), device) for start in starts)
    predictions = torch.cat([teacher(images).logits.argmax(1).cpu() for images in batches])
    return float((predictions == condensed.labels).double().mean())


def _judge(accuracy: float, condensed: CondensedSet) -> str:
    chance = 1 / condensed.num_classes
    text = f"teacher top-1: {100 * accuracy:.1f} % ({round(accuracy * len(condensed))} of {len(condensed)})"
    # Twice chance, but for two classes half-way between chance and certainty (our default).
    if accuracy >= min(2 * chance, (1 + chance) / 2):
        return text
    return (
        f"{text}\nwarning: this is close to chance ({100 * chance:.1f} %). Wrong normalisation (dataset, mean, std), "
        "whitened images, another order of the classes, or the teacher of another dataset"
    )
