"""Geometric augmentations: crops, rolls and flips."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_condkd.augment.base import Augment, AugmentParameters
from lightning_condkd.functional import augmentation as operators
from lightning_condkd.precision import at_least_float32_dtype


class CropFlip(Augment):
    """Random shift by whole pixels with zero fill, and random horizontal flip: the usual crop after padding.

    Args:
        padding: largest shift in pixels, along each axis.
        flip_probability: share of images that are mirrored.

    Raises:
        ValueError: if the padding is negative or the probability is outside [0, 1].

    Example:
        >>> crop = CropFlip(padding=1)
        >>> parameters = crop.sample(4, torch.Generator().manual_seed(0))
        >>> crop(torch.rand(4, 3, 8, 8), parameters).shape
        torch.Size([4, 3, 8, 8])
    """

    def __init__(self, padding: int = 4, flip_probability: float = 0.5) -> None:
        super().__init__()
        if padding < 0:
            raise ValueError(f"padding: expected a count of pixels >= 0, got {padding}")
        _check_flip(flip_probability)
        self.padding, self.flip_probability = padding, flip_probability

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"padding={self.padding}, flip_probability={self.flip_probability}"

    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        """Draw ``shift`` (rows, columns; ``(n, 2)`` pixels) and ``flip`` (``(n,)``, boolean)."""
        shift = torch.randint(-self.padding, self.padding + 1, (n, 2), generator=generator)
        return {"shift": shift, "flip": torch.rand(n, generator=generator) < self.flip_probability}

    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Move the pixels, then mirror them."""
        return operators.shift(images, parameters["shift"], mirrored=parameters["flip"])


class RollFlip(Augment):
    """Random roll by whole pixels with wrap-around, and random horizontal flip; by default the whole batch moves alike.

    Args:
        pixels: largest roll, along each axis.
        flip_probability: probability that an image, or the batch if ``shared``, is mirrored.
        shared: whether all images of a batch have the same roll and flip, as in the code of DeepInversion.

    Raises:
        ValueError: if the count of pixels is negative or the probability is outside [0, 1].

    References:
        Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020 (and its code).

    Example:
        >>> roll = RollFlip(pixels=2)
        >>> parameters = roll.sample(4, torch.Generator().manual_seed(0))
        >>> parameters["roll"].tolist()
        [[2, 2], [2, 2], [2, 2], [2, 2]]
        >>> roll(torch.rand(4, 3, 8, 8), parameters).shape
        torch.Size([4, 3, 8, 8])
    """

    def __init__(self, pixels: int = 2, flip_probability: float = 0.5, shared: bool = True) -> None:
        super().__init__()
        if pixels < 0:
            raise ValueError(f"pixels: expected a count >= 0, got {pixels}")
        _check_flip(flip_probability)
        self.pixels, self.flip_probability, self.shared = pixels, flip_probability, shared

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"pixels={self.pixels}, flip_probability={self.flip_probability}, shared={self.shared}"

    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        """Draw ``roll`` (rows, columns; ``(n, 2)`` pixels) and ``flip`` (``(n,)``, boolean); equal rows if shared."""
        rows = 1 if self.shared else n
        roll = torch.randint(-self.pixels, self.pixels + 1, (rows, 2), generator=generator)
        flip = torch.rand(rows, generator=generator) < self.flip_probability
        return {"roll": roll.expand(n, 2), "flip": flip.expand(n)}

    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Roll the images, then mirror them."""
        return operators.roll(images, parameters["roll"], mirrored=parameters["flip"])


class ResizedCrop(Augment):
    """Random box of each image, stretched to the image's size or another, and random horizontal flip.

    This is the crop of torchvision's ``RandomResizedCrop`` (its scale is 0.08 to 1), except that boxes need not lie on
    whole pixels: area and aspect ratio of a box are drawn together up to ten times until it fits into the image. A box
    that still overhangs is cut down to the image, at a random place, where torchvision takes the middle.

    Args:
        scale: least and greatest share of the image's area (code of function matching: 0.05 to 1).
        ratio: least and greatest ratio of width to height in pixels; drawn uniformly on a logarithmic scale.
        flip_probability: share of images that are mirrored.
        size: height and width of the result in pixels, or one number for both; ``None`` keeps those of the images.
            Images are not smoothed before, so a much smaller result may alias.

    Raises:
        ValueError: if the bounds are not in order or out of their range, the probability is outside [0, 1], or the size
            is not positive.

    Example:
        >>> crop = ResizedCrop()
        >>> crop(torch.rand(4, 3, 8, 8), crop.sample(4, torch.Generator().manual_seed(0))).shape
        torch.Size([4, 3, 8, 8])

    References:
        Szegedy et al., "Going Deeper with Convolutions", CVPR 2015.
        Beyer et al., "Knowledge Distillation: A Good Teacher is Patient and Consistent", arXiv 2106.05237 (and its
        code).
    """

    attempts = 10

    def __init__(
        self,
        scale: tuple[float, float] = (0.25, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_probability: float = 0.5,
        size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale: expected two shares of the area in order, in (0, 1], got {scale}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio: expected two ratios above 0 in order, got {ratio}")
        _check_flip(flip_probability)
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size: expected height and width in pixels, at least 1, got {size}")
        self.scale, self.ratio, self.flip_probability = scale, ratio, flip_probability

    def extra_repr(self) -> str:
        """Return the arguments."""
        given = f"scale={self.scale}, ratio={self.ratio}, flip_probability={self.flip_probability}"
        return given if self.size is None else f"{given}, size={self.size}"

    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        """Draw ``area`` and ``ratio`` (candidates, ``(n, 10)``), ``position`` (``(n, 2)`` in [0, 1)) and ``flip``."""
        dtype = at_least_float32_dtype()
        uniform = torch.rand(n, 2, self.attempts, generator=generator, dtype=dtype)
        low, high = torch.tensor(self.ratio, dtype=dtype).log()
        return {
            "area": self.scale[0] + (self.scale[1] - self.scale[0]) * uniform[:, 0],
            "ratio": (low + (high - low) * uniform[:, 1]).exp(),
            "position": torch.rand(n, 2, generator=generator, dtype=dtype),
            "flip": torch.rand(n, generator=generator) < self.flip_probability,
        }

    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Cut the first box that fits, stretch it, then mirror it."""
        sides = self.box_sides(parameters, images.shape[2], images.shape[3])
        crops = operators.resized_crop(images, sides, parameters["position"], self.size)
        return operators.flip(crops, parameters["flip"])

    def box_sides(self, parameters: AugmentParameters, height: int, width: int) -> Tensor:
        """Return the sides of the first boxes that fit, as shares of the image's sides, rows and columns, ``(n, 2)``.

        Args:
            parameters: from :meth:`sample`, with ``n`` rows.
            height: height of the images in pixels.
            width: width of the images in pixels.
        """
        form, area, ratio = height / width, parameters["area"], parameters["ratio"]
        sides = torch.stack([(area / ratio / form).sqrt(), (area * ratio * form).sqrt()], dim=1)
        first = (sides <= 1).all(1).long().argmax(1)
        return sides[torch.arange(len(sides)), :, first].clamp(max=1)


def _check_flip(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"flip_probability: expected a share in [0, 1], got {probability}")
