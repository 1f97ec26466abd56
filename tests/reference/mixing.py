"""Mixup and CutMix pixel by pixel, written from the formulas of the papers."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mixup(images: list[list[float]], partner: Sequence[int], share: Sequence[float]) -> list[list[float]]:
    """Weighted means of flat images."""
    return [
        [(1 - weight) * own + weight * other for own, other in zip(image, images[row], strict=True)]
        for image, row, weight in zip(images, partner, share, strict=True)
    ]


def inside(y: int, x: int, height: int, width: int, share: float, center: Sequence[float]) -> bool:
    """Whether a pixel is in a box with sides of ``sqrt(share)`` around a middle pixel."""
    half_height, half_width = int(height * math.sqrt(share)) // 2, int(width * math.sqrt(share)) // 2
    middle_y, middle_x = int(height * center[0]), int(width * center[1])
    vertical = middle_y - half_height <= y < middle_y + half_height
    return vertical and middle_x - half_width <= x < middle_x + half_width


def cutmix_area(height: int, width: int, share: float, center: Sequence[float]) -> float:
    """Share of the pixels that are in the box."""
    found = sum(inside(y, x, height, width, share, center) for y in range(height) for x in range(width))
    return found / (height * width)


def mixed_labels(labels: list[list[float]], partner: Sequence[int], share: Sequence[float]) -> list[list[float]]:
    """Probabilities in the proportions of the images."""
    return mixup(labels, partner, share)
