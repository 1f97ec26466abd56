"""Tiling, shrinking and framing of images, as RDED builds its images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def tile(images: Tensor, factor: int) -> Tensor:
    """Join small images into large ones of factor x factor tiles.

    The first n images are the upper left tiles, the next n the tiles to their right, and so on, as in RDED's code. With
    images sorted by score, every result gets some of the best ones.

    Args:
        images: ``(n * factor**2, C, h, w)``.
        factor: tiles along a side.

    Returns:
        ``(n, C, factor * h, factor * w)``.

    Example:
        >>> import torch
        >>> tile(torch.arange(8.0).view(8, 1, 1, 1), factor=2)[0, 0]
        tensor([[0., 2.],
                [4., 6.]])
    """
    _, channels, height, width = images.shape
    grid = images.reshape(factor, factor, -1, channels, height, width).permute(2, 3, 0, 4, 1, 5)
    return grid.reshape(-1, channels, factor * height, factor * width)


def shrink(images: Tensor, factor: int) -> Tensor:
    """Make images smaller by a whole factor, bilinearly and with antialiasing; a factor of 1 changes nothing.

    Args:
        images: ``(N, C, H, W)``.
        factor: divides H and W.

    Example:
        >>> import torch
        >>> shrink(torch.ones(1, 3, 8, 4), factor=2).shape
        torch.Size([1, 3, 4, 2])
    """
    if factor == 1:
        return images
    size = [side // factor for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def frame(images: Tensor, size: tuple[int, int], color: Tensor) -> Tensor:
    """Pad small images with one colour on all sides to a larger size.

    Args:
        images: ``(N, C, h, w)``.
        size: height and width of the result, at least those of the images.
        color: one value for each channel, ``(C,)``.

    Returns:
        ``(N, C, *size)``; an odd pixel of padding is added below or to the right.

    Example:
        >>> import torch
        >>> frame(torch.tensor([[[[7.0]]]]), (2, 3), torch.tensor([1.0]))
        tensor([[[[1., 7., 1.],
                  [1., 1., 1.]]]])
    """
    count, channels, height, width = images.shape
    framed = color.to(images).view(-1, 1, 1).expand(count, channels, *size).clone()
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    framed[:, :, top : top + height, left : left + width] = images
    return framed
