"""Pixel units: bytes and [0, 1], their conversion, and checks of the pixels of a condensed set."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_condkd.randomness import send

# Learned pixels may leave [0, 1]. No pixel of the public DM set for CIFAR-10, which has -0.28 to 1.19, is outside these
# bounds. After a normalisation by mean and std of the data 49 % are, by 0.5 and 0.5 about a fifth, and about a fifth of
# a learned set with four times the standard deviation of CIFAR-10.
BOUNDS, DOUBTFUL, REFUSED = (-0.5, 1.5), 0.05, 0.25
# Pixels of 0 to 255 may be black except a few; no normalised or learned pixel is nearly as large.
HIGHEST = 16.0
# Part to convert at once if a copy of all images in another type would need too much memory: 16 MB of float32.
PART = 2**22


def parts(images: Tensor) -> Iterator[slice]:
    """Return slices that cover a tensor, each of a few megabytes.

    Args:
        images: any shape; it is cut along the first dimension.

    Example:
        >>> list(parts(torch.zeros(3, PART // 2)))
        [slice(0, 2, None), slice(2, 4, None)]
    """
    length = max(1, PART // max(1, images[:1].numel()))
    return (slice(start, start + length) for start in range(0, len(images), length))


def share_outside(images: Tensor, low: float, high: float) -> float:
    """Return the share of pixel values below or above bounds.

    Args:
        images: any shape, not empty.
        low: the lower bound.
        high: the upper bound.

    Example:
        >>> share_outside(torch.tensor([-1.0, 0.0, 1.0, 3.0]), 0.0, 1.0)
        0.5
    """
    counts = (int(((images[rows] < low) | (images[rows] > high)).sum()) for rows in parts(images))
    return sum(counts) / images.numel()


def pixel_fault(images: Tensor, allowed: float = REFUSED) -> str | None:
    """Return a message with advice if images cannot be in the units of [0, 1], ``None`` if they may be.

    Args:
        images: ``(N, C, H, W)``; uint8 (0 to 255) is always right.
        allowed: share of the pixels that may be far outside.

    Example:
        >>> pixel_fault(torch.rand(2, 1, 4, 4)), pixel_fault(255 * torch.rand(2, 1, 4, 4))[:39]
        (None, 'have pixels as of 0 to 255 in float32: ')
    """
    if images.dtype == torch.uint8:
        return None
    low, high = (float(bound) for bound in images.aminmax())
    if low >= 0 and high > HIGHEST:
        return f"have pixels as of 0 to 255 in {str(images.dtype)[6:]}: divide them by 255, or give them as uint8"
    outside = share_outside(images, *BOUNDS)
    if outside <= allowed and max(-low, high) <= HIGHEST:
        return None
    return (
        f"have pixels from {low:.2f} to {high:.2f}, {100 * outside:.0f} % of them below {BOUNDS[0]} or above "
        f"{BOUNDS[1]}, as normalised images do: undo it by images * std + mean, the networks normalise by themselves"
    )


def check_pixels(images: Tensor) -> None:
    """Check that the images of a condensed set are in the units of [0, 1].

    Learned images may leave the interval: more than 5 % of the pixels below -0.5 or above 1.5 give a warning, more than
    25 % are refused.

    Args:
        images: ``(N, C, H, W)``.

    Raises:
        ValueError: if they look normalised, or like pixels of 0 to 255.
    """
    if fault := pixel_fault(images):
        raise ValueError(f"expected condensed images in the units of [0, 1]; these {fault}")
    if doubt := pixel_fault(images, DOUBTFUL):
        warnings.warn(
            f"are the condensed images in the units of [0, 1]? They {doubt}. Images learned at a high rate may look "
            "like this too",
            stacklevel=3,
        )


def to_pixels(images: Tensor, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Return images as floating point pixels in the units of [0, 1].

    Args:
        images: uint8 (0 to 255) or floating point (already in the units of [0, 1]), any shape.
        device: where the result lives; the bytes are moved before they are widened.
        dtype: that of the result; ``None`` for the default one.
    """
    pixels = send(images, device).to(dtype or torch.get_default_dtype())
    return pixels / 255 if images.dtype == torch.uint8 else pixels


def level_statistics(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, in the units of [0, 1].

    Args:
        counts: number of pixels of each of the 256 levels in each channel, ``(C, 256)``.

    Example:
        >>> counts = torch.zeros(1, 256, dtype=torch.int64)
        >>> counts[0, 0] = counts[0, 255] = 3
        >>> level_statistics(counts)
        ((0.5,), (0.5,))
    """
    shares = counts.double() / counts.sum(1, keepdim=True)
    values = to_pixels(torch.arange(256).to(torch.uint8), dtype=torch.float64)
    mean = shares @ values
    variance = (shares @ values.square() - mean.square()).clamp(min=0)
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())


def to_bytes(images: Tensor) -> Tensor:
    """Return images as uint8: pixels are clamped to [0, 1] and rounded to the nearest of 256 values.

    Args:
        images: floating point in the units of [0, 1], finite, or uint8, which stay as they are; any shape.

    Example:
        >>> to_bytes(torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.5]))
        tensor([  0,   0, 128, 255, 255], dtype=torch.uint8)
    """
    return images if images.dtype == torch.uint8 else (images.float().clamp(0, 1) * 255).round().to(torch.uint8)
