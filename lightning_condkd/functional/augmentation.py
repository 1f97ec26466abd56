"""Differentiable image operators with parameters for each image, or one row of parameters for the whole batch.

Pixels are in the units of [0, 1] and may leave that interval: no operator clips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.enhance import adjust_brightness
from kornia.geometry.transform import hflip, remap
from torch import Tensor

from lightning_condkd.precision import at_least_float32
from lightning_condkd.randomness import send


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror images left to right.

    Args:
        images: ``(N, C, H, W)``.
        mirrored: which images to mirror, ``(N or 1,)`` boolean.
    """
    return torch.where(mirrored.to(images.device)[:, None, None, None], hflip(images), images)


def mirror(images: Tensor) -> Tensor:
    """Mirror all images left to right.

    Args:
        images: ``(N, C, H, W)``.
    """
    mirrored: Tensor = hflip(images)
    return mirrored


def shift(images: Tensor, offset: Tensor, fill: float = 0.0, mirrored: Tensor | None = None) -> Tensor:
    """Shift the crop window by whole pixels, then mirror the crop left to right; pixels keep their values.

    Args:
        images: ``(N, C, H, W)``.
        offset: rows and columns, ``(N or 1, 2)`` int64 in pixels.
        fill: value of the pixels that come in from outside.
        mirrored: which images to mirror, ``(N or 1,)`` boolean.

    Example:
        >>> shift(torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]), torch.tensor([[0, 1]]))
        tensor([[[[2., 3., 0.],
                  [5., 6., 0.]]]])
    """
    height, width = images.shape[2:]
    limit = int(offset.abs().max()) if len(offset) else 0
    mirrored = torch.zeros(1, dtype=torch.bool) if mirrored is None else mirrored
    columns = torch.where(mirrored[:, None], torch.arange(width).flip(0), torch.arange(width)) + offset[:, 1:] + limit
    rows = (torch.arange(height) + offset[:, :1] + limit) * (width + 2 * limit)
    rows, columns = (send(places, images.device) for places in (rows, columns))
    index = (rows[:, None, :, None] + columns[:, None, None, :]).flatten(2).expand(*images.shape[:2], -1)
    padded = F.pad(images, (limit, limit, limit, limit), value=fill).flatten(2)
    # An index, not Kornia's warp: whole pixels stay exact, and deterministic=True holds on a GPU.
    return padded.gather(2, index).view_as(images)


def roll(images: Tensor, offset: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Roll images by whole pixels with wrap-around, then mirror them left to right.

    Args:
        images: ``(N, C, H, W)``.
        offset: rows down and columns to the right, ``(N or 1, 2)`` int64 in pixels.
        mirrored: which images to mirror, ``(N or 1,)`` boolean.

    Example:
        >>> roll(torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]), torch.tensor([[1, -1]]))
        tensor([[[[5., 6., 4.],
                  [2., 3., 1.]]]])
    """
    if len(offset) and bool((offset == offset[0]).all()):
        down, right = offset[0].tolist()
        rolled = images.roll((down, right), dims=(2, 3))
    else:
        rows, columns = (
            ((torch.arange(side) - moved[:, None]) % side).to(images.device)
            for side, moved in zip(images.shape[2:], offset.unbind(1), strict=True)
        )
        rolled = images.gather(2, rows[:, None, :, None].expand_as(images))
        rolled = rolled.gather(3, columns[:, None, None, :].expand_as(images))
    return rolled if mirrored is None else flip(rolled, mirrored)


def translate(images: Tensor, position: Tensor, share: float, fill: float) -> Tensor:
    """Shift images by up to a share of their sides, rounded to whole pixels.

    Args:
        images: ``(N, C, H, W)``.
        position: uniform in [0, 1), rows and columns, ``(N or 1, 2)``.
        share: largest shift as a share of the side.
        fill: value of the pixels that come in from outside.
    """
    limits = torch.tensor([_round(share * side) for side in images.shape[2:]])
    counts = 2 * limits + 1
    return shift(images, (at_least_float32(position) * counts).long().minimum(counts - 1) - limits, fill)


def cutout(images: Tensor, position: Tensor, share: float, fill: float) -> Tensor:
    """Cover one rectangle of each image; it is centred anywhere on the image and may overhang.

    Args:
        images: ``(N, C, H, W)``.
        position: uniform in [0, 1), rows and columns, ``(N or 1, 2)``.
        share: sides of the rectangle as a share of the image's sides.
        fill: value of the covered pixels.
    """
    rows, columns = (
        _interval(side, _round(share * side), place).to(images.device)
        for side, place in zip(images.shape[2:], position.unbind(1), strict=True)
    )
    return images.masked_fill((rows[:, :, None] & columns[:, None, :]).unsqueeze(1), fill)


def color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness, then saturation, then contrast.

    Saturation and contrast do not use Kornia, which clips to [0, 1] and so stops the gradient of pixels outside.

    Args:
        images: ``(N, C, H, W)``; one channel has no saturation to change.
        brightness: offsets in the units of [0, 1], ``(N or 1,)``.
        saturation: factors around the pixel's mean over channels, ``(N or 1,)``.
        contrast: factors around the image's mean, ``(N or 1,)``.
    """
    images = adjust_brightness(images, brightness.to(images), clip_output=False)
    images = _stretch(images, images.mean(1, keepdim=True), saturation)
    return _stretch(images, images.mean((1, 2, 3), keepdim=True), contrast)


def affine(images: Tensor, linear: Tensor, fill: float) -> Tensor:
    """Map images linearly around their centre, with bilinear interpolation.

    Args:
        images: ``(N, C, H, W)``.
        linear: maps offsets ``(x, y)`` from the centre, in pixels, from the input to the output, ``(N or 1, 2, 2)``.
        fill: value of the pixels that come in from outside.
    """
    pixels = at_least_float32(images)
    if fill:
        # A warped plane of ones is the share of each pixel that comes from inside; subtracting the fill would round.
        pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
    moved = _sample(pixels, *_mapped_back(linear.to(pixels), images.shape[2], images.shape[3]), padding="zeros")
    if fill:
        moved = moved[:, :-1] + fill * (1 - moved[:, -1:])
    return moved.to(images.dtype)


def _mapped_back(linear: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the source of each output pixel: columns and rows as offsets from the centre in pixels."""
    # Term by term: a matrix product or inverse would be rounded by autocast, and on a GPU by TF32.
    (a, b), (c, d) = (row.unbind(1) for row in linear[..., None, None].unbind(1))
    x, y = _offsets(width, linear), _offsets(height, linear)[:, None]
    determinant = a * d - b * c
    return (d * x - b * y) / determinant, (a * y - c * x) / determinant


def _offsets(side: int, like: Tensor) -> Tensor:
    return torch.arange(side, dtype=like.dtype, device=like.device) - (side - 1) / 2


def _sample(pixels: Tensor, x: Tensor, y: Tensor, padding: str) -> Tensor:
    """Sample bilinearly at offsets from the centre in pixels, ``x`` with all columns and ``y`` with all rows."""
    height, width = pixels.shape[2:]
    columns, rows = x + (width - 1) / 2, y + (height - 1) / 2
    columns, rows = (places.expand(len(pixels), y.shape[1], x.shape[2]) for places in (columns, rows))
    sampled: Tensor = remap(pixels, columns, rows, mode="bilinear", padding_mode=padding, align_corners=True)
    return sampled


def _interval(side: int, length: int, position: Tensor) -> Tensor:
    start = (at_least_float32(position) * (side + 1 - length % 2)).long() - length // 2
    offset = torch.arange(side) - start[:, None]
    return (offset >= 0) & (offset < length)


def _stretch(images: Tensor, center: Tensor, factor: Tensor) -> Tensor:
    return center + factor.to(images)[:, None, None, None] * (images - center)


def _round(value: float) -> int:
    # Halves are rounded up, as in the published augmentations.
    return int(value + 0.5)


def resized_crop(images: Tensor, size: Tensor, position: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
    """Cut one box out of each image and stretch it, with bilinear interpolation.

    Boxes need not lie on whole pixels. Beyond the border the outermost pixels are repeated. A box that shrinks is not
    smoothed before, so that fine patterns may alias.

    Args:
        images: ``(N, C, H, W)``.
        size: sides of the box as shares of the image's sides, rows and columns, in (0, 1], ``(N or 1, 2)``.
        position: uniform in [0, 1), rows and columns, ``(N or 1, 2)``: 0 is the upper left corner.
        output_size: height and width of the result in pixels; ``None`` for those of the images.

    Returns:
        ``(N, C, H', W')``.

    Example:
        >>> upper_half = torch.tensor([[0.5, 1.0]])
        >>> resized_crop(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), upper_half, torch.zeros(1, 2))
        tensor([[[[1.0000, 2.0000],
                  [1.5000, 2.5000]]]])
    """
    pixels = at_least_float32(images)
    height, width = images.shape[2:]
    rows, columns = (height, width) if output_size is None else output_size
    size, position = size.to(pixels)[..., None, None], position.to(pixels)[..., None, None]
    y = _offsets(rows, pixels)[:, None] * (height / rows) * size[:, 0]
    x = _offsets(columns, pixels) * (width / columns) * size[:, 1]
    y = y + (1 - size[:, 0]) * (position[:, 0] - 0.5) * height
    x = x + (1 - size[:, 1]) * (position[:, 1] - 0.5) * width
    return _sample(pixels, x, y, padding="border").to(images.dtype)
