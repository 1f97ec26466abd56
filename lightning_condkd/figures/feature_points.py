"""Teacher's embeddings of several groups of images, as points in one plane."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from lightning_condkd.functional.tsne import tsne
from lightning_condkd.models import Observer
from lightning_condkd.pixels import to_pixels
from lightning_condkd.precision import at_least_float32

CHUNK = 256  # images in a forward pass
Group = TypeVar("Group", bound=Hashable)


class LabeledImages(NamedTuple):
    """Images of one source, such as the condensed ones.

    Args:
        images: ``(N, C, H, W)``, pixels in the units of [0, 1] or uint8.
        labels: classes, ``(N,)`` int64.
    """

    images: Tensor
    labels: Tensor

    def chosen(self, max_images: int, max_classes: int) -> LabeledImages:
        """Return images of the first classes, evenly spaced in their order.

        Args:
            max_images: largest number of images.
            max_classes: number of classes, from class 0 on.

        Example:
            >>> LabeledImages(torch.rand(9, 1, 8, 8), torch.arange(9)).chosen(3, 5).labels
            tensor([0, 2, 4])
        """
        rows = (self.labels < max_classes).nonzero().flatten()
        places = torch.linspace(0, max(0, len(rows) - 1), min(len(rows), max_images)).round().long()
        rows = rows[places.to(rows.device)]
        return LabeledImages(self.images[rows.to(self.images.device)], self.labels[rows])


class LabeledPoints(NamedTuple):
    """Images of one source as points.

    Args:
        points: ``(n, 2)``.
        labels: classes, ``(n,)`` int64.
    """

    points: Tensor
    labels: Tensor


@torch.no_grad()
def embeddings_of(teacher: Observer, images: Tensor) -> Tensor:
    """Return the embeddings of images, ``(N, D)`` on the CPU, without gradients.

    Args:
        teacher: the frozen teacher; the images are moved to its device and dtype.
        images: ``(N, C, H, W)``, pixels in the units of [0, 1] or uint8.
    """
    weights = next(teacher.parameters())
    outputs = (
        teacher(to_pixels(part, weights.device).to(weights.dtype), embedding=True).embedding
        for part in torch.split(images, CHUNK)
    )
    return torch.cat([at_least_float32(cast(Tensor, output)).cpu() for output in outputs])


def feature_points(
    teacher: Observer,
    groups: Mapping[Group, LabeledImages],
    *,
    max_images: int = 500,
    max_classes: int = 10,
    seed: int = 0,
) -> dict[Group, LabeledPoints]:
    """Return images as points in one plane, by t-SNE of the teacher's embeddings of all groups together.

    Args:
        teacher: the frozen teacher.
        groups: images by their source; empty ones are left out.
        max_images: largest number of images of a source, evenly spaced.
        max_classes: number of classes to show, from class 0 on.
        seed: seed of the t-SNE.

    Raises:
        ValueError: if there are too few images, or the network has no final linear layer.

    Example:
        >>> from lightning_condkd.models import DigitsNet
        >>> teacher = Observer(DigitsNet(width=4)).freeze()
        >>> condensed = LabeledImages(torch.rand(10, 1, 8, 8), torch.arange(10))
        >>> feature_points(teacher, {"condensed": condensed}, max_classes=5)["condensed"].points.shape
        torch.Size([5, 2])
    """
    chosen = {name: group.chosen(max_images, max_classes) for name, group in groups.items()}
    chosen = {name: group for name, group in chosen.items() if len(group.labels)}
    embeddings = [embeddings_of(teacher, group.images) for group in chosen.values()]
    points = tsne(torch.cat(embeddings) if embeddings else torch.empty(0, 0), seed=seed)
    parts = torch.split(points, [len(part) for part in embeddings])
    return {
        name: LabeledPoints(part, group.labels.cpu()) for (name, group), part in zip(chosen.items(), parts, strict=True)
    }
