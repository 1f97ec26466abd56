"""Counts, sizes and channel statistics of images that are seen one at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from lightning_condkd.data.image_source import central_square
from lightning_condkd.pixels import level_statistics, parts, to_pixels

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


class ImageStatistics:
    """Counts, sizes and channel statistics of images, added one by one; none is kept.

    Args:
        image_size: side in pixels of the central square of an image whose pixels count, see
            :func:`~lightning_condkd.data.image_source.central_square`; ``None`` for all pixels as they are.

    Attributes:
        sizes: number of images of each size, (height, width) in pixels.
        counts: number of images of each class.
        gray: number of images without colour.

    Example:
        >>> from PIL import Image
        >>> statistics = ImageStatistics()
        >>> statistics.add(Image.new("L", (3, 2), 51), label=7)
        >>> statistics.sizes[2, 3], statistics.counts[7], statistics.channel_statistics()
        (1, 1, ((0.2...,), (0.0,)))
    """

    def __init__(self, image_size: int | None = None) -> None:
        self.image_size = image_size
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.counts: Counter[int] = Counter()
        self.gray = 0
        self._levels = {"L": torch.zeros(1, 256, dtype=torch.int64), "RGB": torch.zeros(3, 256, dtype=torch.int64)}

    def __len__(self) -> int:
        return self.sizes.total()

    def add(self, image: Image, label: int | None = None) -> None:
        """Add an image.

        Args:
            image: in PIL's mode L (gray) or RGB.
            label: its class, if it has one.
        """
        self.sizes[image.height, image.width] += 1
        self.gray += image.mode == "L"
        if label is not None:
            self.counts[label] += 1
        seen = image if self.image_size is None else central_square(image, self.image_size)
        self._levels[image.mode] += torch.tensor(seen.histogram()).view(-1, 256)

    def channel_statistics(self) -> Statistics | None:
        """Return mean and standard deviation of each channel over all pixels, in the units of [0, 1].

        There is one channel if all images are gray. ``None`` without images.
        """
        if not len(self):
            return None
        gray, color = self._levels["L"], self._levels["RGB"]
        return level_statistics(gray if self.gray == len(self) else color + gray)

    def record(self) -> dict[str, Any]:
        """Return sizes and channel statistics, JSON values only."""
        by_area = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        common = self.sizes.most_common(1)
        statistics = self.channel_statistics()
        return {
            "images": len(self),
            "gray": self.gray,
            "sizes": {
                "different": len(by_area),
                "smallest": list(by_area[0]) if by_area else None,
                "largest": list(by_area[-1]) if by_area else None,
                "most_common": list(common[0][0]) if common else None,
                "most_common_images": common[0][1] if common else 0,
            },
            "mean": None if statistics is None else list(statistics[0]),
            "std": None if statistics is None else list(statistics[1]),
        }


def tensor_statistics(images: Tensor) -> Statistics:
    """Return mean and standard deviation of each channel over all pixels, in the units of [0, 1].

    Args:
        images: ``(N, C, H, W)``, uint8 or floating point; a few at a time are converted.

    Example:
        >>> tensor_statistics(torch.tensor([0.0, 0.5]).view(1, 1, 1, 2))
        ((0.25,), (0.25,))
    """
    count = images[:, 0].numel()
    chunks = [to_pixels(images[rows], dtype=torch.float64).sum((0, 2, 3)) for rows in parts(images)]
    mean = torch.stack(chunks).sum(0) / count
    squares = [
        (to_pixels(images[rows], dtype=torch.float64) - mean.view(-1, 1, 1)).square().sum((0, 2, 3))
        for rows in parts(images)
    ]
    variance = torch.stack(squares).sum(0) / count
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())
