"""Grids of images from several sources: a row for each source, or for each source of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_condkd.figures.feature_points import LabeledImages
from lightning_condkd.image_grids import labeled_grid
from lightning_condkd.pixels import to_pixels

EMPTY = 0.5  # gray in place of an image that a source lacks


def rows_by_source(sources: Mapping[str, LabeledImages], num_classes: int, per_class: int = 1) -> Tensor:
    """Return a picture with a row for each source: its last images of class 0, of class 1 and so on.

    Args:
        sources: images of one shape by the name of the row.
        num_classes: number of classes in a row.
        per_class: images of each class.

    Returns:
        ``(3, H, W)``, pixels in [0, 1]; missing images are gray.

    Example:
        >>> images = LabeledImages(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
        >>> rows_by_source({"condensed": images, "synthetic": images}, num_classes=3).shape[1]
        134
    """
    rows = [torch.cat([_last(group, label, per_class) for label in range(num_classes)]) for group in sources.values()]
    labels = torch.arange(len(rows)).repeat_interleave(num_classes * per_class)
    return labeled_grid(torch.cat(rows), labels, list(sources), columns=num_classes * per_class)


def rows_by_class(sources: Mapping[str, LabeledImages], class_names: Sequence[str], columns: int = 10) -> Tensor:
    """Return a picture with a row for each source of each class, such as "cat, condensed" above "cat, synthetic".

    Args:
        sources: images of one shape by the name of the source; the last of each class are shown.
        class_names: names of the classes to show, from class 0 on.
        columns: largest number of images in a row.

    Returns:
        ``(3, H, W)``, pixels in [0, 1].

    Example:
        >>> images = LabeledImages(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
        >>> rows_by_class({"condensed": images, "synthetic": images}, ["cat", "dog"]).shape[1]
        266
    """
    cells = [(group, label) for label in range(len(class_names)) for group in sources.values()]
    rows = [to_pixels(group.images[(group.labels == label).nonzero().flatten()[-columns:]]) for group, label in cells]
    labels = torch.repeat_interleave(torch.tensor([len(row) for row in rows]))
    names = [f"{name}, {source}" for name in class_names for source in sources]
    return labeled_grid(torch.cat(rows), labels, names, columns=columns)


def _last(group: LabeledImages, label: int, count: int) -> Tensor:
    found = to_pixels(group.images[(group.labels == label).nonzero().flatten()[-count:]])
    return torch.cat([found, found.new_full((count - len(found), *group.images.shape[1:]), EMPTY)])
