"""Where synthetic images lie in the teacher's feature space: near real images, near condensed ones, near each other."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_condkd.models import Observer


@torch.no_grad()
def embed(teacher: Observer, images: Tensor, batch_size: int = 250) -> Tensor:
    """Return the teacher's embeddings ``(N, D)`` of images in the units of [0, 1]."""
    return torch.cat([teacher(part, embedding=True).embedding for part in images.split(batch_size)])


def energy_distance(first: Tensor, second: Tensor) -> float:
    """Return the energy distance of two samples, unbiased: 0 on average for two samples of one distribution."""
    return float(2 * torch.cdist(first, second).mean() - mean_distance(first) - mean_distance(second))


def mean_distance(sample: Tensor) -> float:
    """Return the mean distance of two different members; 0 for a single one."""
    count = len(sample)
    return float(torch.cdist(sample, sample).sum() / (count * (count - 1))) if count > 1 else 0.0


Pair = tuple[Tensor, Tensor]


def class_pairs(ours: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> list[Pair]:
    """Return for every class of a set its embeddings and those of real images."""
    return [(ours[labels == k], real[real_labels == k]) for k in labels.unique()]


def distance_in_class(pairs: list[Pair]) -> float:
    """Return the mean energy distance over classes; where a set has one image, its spread counts as 0."""
    return sum(energy_distance(*pair) for pair in pairs) / max(len(pairs), 1)


def figures(
    teacher: Observer, synthetic: Tensor, labels: Tensor, real: tuple[Tensor, Tensor], condensed: Tensor
) -> dict[str, float]:
    """Return the distances of labelled synthetic images, in units of the mean distance of two real embeddings.

    ``to_real`` and ``to_condensed`` are energy distances of the whole samples; ``to_real_in_class`` is the mean over
    the classes that have two synthetic images; ``nearest_condensed`` is the mean distance to the nearest condensed
    embedding and ``nearest_condensed_real`` the same of real images; ``nearest_condensed_pixels`` is the root mean
    square difference to the nearest condensed image; ``diversity_in_class`` is the mean distance of two images of a
    class, divided by the same of real images.
    """
    ours, theirs, few = embed(teacher, synthetic), embed(teacher, real[0]), embed(teacher, condensed)
    unit = mean_distance(theirs)
    pairs = [pair for pair in class_pairs(ours, labels, theirs, real[1]) if len(pair[0]) > 1]
    pixels = torch.cdist(synthetic.flatten(1), condensed.flatten(1)).min(1).values / synthetic[0].numel() ** 0.5
    values = {
        "to_real": energy_distance(ours, theirs) / unit,
        "to_real_in_class": distance_in_class(pairs) / unit,
        "to_condensed": energy_distance(ours, few) / unit,
        "nearest_condensed": float(torch.cdist(ours, few).min(1).values.mean()) / unit,
        "nearest_condensed_real": float(torch.cdist(theirs, few).min(1).values.mean()) / unit,
        "nearest_condensed_pixels": float(pixels.mean()),
        "diversity_in_class": sum(mean_distance(a) / mean_distance(b) for a, b in pairs) / max(len(pairs), 1),
    }
    return {name: round(value, 4) for name, value in values.items()}
