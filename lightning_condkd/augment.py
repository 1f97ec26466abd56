"""Augmentation of image batches: parameters are drawn from an explicit generator, then applied differentiably."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_condkd.functional import augmentation as operators
from lightning_condkd.randomness import Draw

AugmentParameters = Mapping[str, Tensor]
DiffAugmentOperator = Literal["color", "translation", "cutout", "flip"]


def take(parameters: AugmentParameters, rows: slice | Tensor) -> AugmentParameters:
    """Return the parameters of some images of the batch.

    Args:
        parameters: tensors with one leading row for each image.
        rows: which images, e.g. ``Draw.rows``.

    Example:
        >>> take({"flip": torch.tensor([True, False, True])}, slice(1, None, 2))
        {'flip': tensor([False])}
    """
    return {name: values[rows] for name, values in parameters.items()}


class Augment(nn.Module, ABC):
    """Differentiable augmentation of images in the units of [0, 1], in two steps: draw, then apply.

    Parameters are CPU tensors for the global batch, so they depend neither on the device nor on the number of ranks.
    The same parameters can be applied to several batches; one row is applied to every image of a batch of any size,
    which is the siamese use.
    """

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        """Draw the parameters of a batch.

        Args:
            n: images in the global batch; 1 for one draw that all images share.
            generator: a CPU generator.

        Returns:
            CPU tensors with ``n`` rows each.
        """

    @abstractmethod
    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Apply checked parameters; what a subclass writes."""

    def forward(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Apply drawn parameters.

        Args:
            images: ``(N, C, H, W)``, floating point pixels in the units of [0, 1]; they may leave that interval.
            parameters: from :meth:`sample`, with ``N`` rows or with one.

        Raises:
            ValueError: if the images are not floating point, or the rows do not fit the batch.
        """
        if not images.is_floating_point():
            raise ValueError(f"images: expected floating point in [0, 1], got {images.dtype}; divide uint8 by 255")
        rows = {len(values) for values in parameters.values()}
        if not rows <= {1, len(images)}:
            expected = f"expected 1 or {len(images)} rows, got {sorted(rows)}"
            raise ValueError(f"parameters: {expected}; slice them with take(parameters, rows)")
        return self.transform(images, parameters)

    def view(self, images: Tensor, draw: Draw, purpose: str) -> Tensor:
        """Return a random view of this rank's rows of a global batch.

        Args:
            images: local rows, ``(N / world_size, C, H, W)``, pixels in the units of [0, 1].
            draw: randomness of the step.
            purpose: name of the stream of parameters.
        """
        parameters = self.sample(len(images) * draw.world_size, draw.generator(purpose))
        return self.forward(images, take(parameters, draw.rows))


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
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability: expected a share in [0, 1], got {flip_probability}")
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
        flip_probability: chance of being mirrored.
        shared: whether all images of a batch have the same roll and flip, as in the codes of DeepInversion.

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
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability: expected a share in [0, 1], got {flip_probability}")
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


class _Strength(NamedTuple):
    brightness: float
    saturation: float
    contrast: float
    translation: float
    cutout: float
    fill: float
    scale: float = 1.0
    rotation: float = 0.0


class DifferentiableAugment(Augment):
    """DiffAugment: every operator of the policy, each image with its own parameters.

    Args:
        policy: operators in the order of application. The default is ours.
        brightness: largest offset, in the units of [0, 1]; the published 0.5 is for pixels in [-1, 1]: 0.25.
        saturation: factors lie in ``1 +- saturation``, around the pixel's mean over channels (published 1).
        contrast: factors lie in ``1 +- contrast``, around the image's mean (published 0.5).
        translation: largest shift as a share of the side (published 1/8).
        cutout: side of the square as a share of the image's side (published 0.5).
        fill: value of what is shifted in or cut out; the published 0 is for pixels in [-1, 1]: 0.5.

    Raises:
        ValueError: if the policy is empty or names an unknown operator.

    References:
        Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020 (and its code).

    Example:
        >>> augment = DifferentiableAugment(("translation", "cutout"))
        >>> augment(torch.rand(2, 3, 8, 8), augment.sample(2, torch.Generator().manual_seed(0))).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        policy: Sequence[DiffAugmentOperator] = ("flip", "translation", "cutout"),
        *,
        brightness: float = 0.25,
        saturation: float = 1.0,
        contrast: float = 0.5,
        translation: float = 0.125,
        cutout: float = 0.5,
        fill: float = 0.5,
    ) -> None:
        super().__init__()
        self.policy = _checked(policy, ("color", "translation", "cutout", "flip"))
        self.strength = _Strength(brightness, saturation, contrast, translation, cutout, fill)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return _describe(self.policy, self.strength)

    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        """Draw the parameters of all operators, whichever the policy names."""
        return _sample(n, generator, self.strength)

    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Apply the operators one after the other."""
        for operator in self.policy:
            images = _apply(operator, images, parameters, self.strength)
        return images


class SiameseAugment(Augment):
    """DSA: ONE operator, drawn for the whole batch; ``sample(1, ...)`` shares its parameters over batches of any size.

    The published strengths are for normalised pixels. Saturation, contrast and the geometry do not depend on that
    scale. The brightness offset of 0.5 and the zero fill do: with CIFAR-10's standard deviation of 0.2 and mean of 0.47
    they become 0.1 and about 0.5.

    Args:
        policy: operator names joined by underscores; for digits the paper leaves out ``flip``.
        brightness: largest offset, in the units of [0, 1].
        saturation: factors lie in ``1 +- saturation``, around the pixel's mean over channels (published 1).
        contrast: factors lie in ``1 +- contrast``, around the image's mean (published 0.5).
        translation: largest shift of ``crop`` as a share of the side (published 0.125).
        cutout: side of the square as a share of the image's side (published 0.5).
        scale: sides are divided by factors in ``(1 / scale, scale)``, each axis by its own (published 1.2).
        rotation: largest angle in degrees (published 15).
        fill: value of what comes in from outside or is cut out: the mean of the data set, to be exact.

    Raises:
        ValueError: if the policy is empty or names an unknown operator.

    References:
        Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021 (and its code).

    Example:
        >>> augment = SiameseAugment("color_crop_cutout_scale_rotate")
        >>> shared = augment.sample(1, torch.Generator().manual_seed(0))
        >>> augment(torch.rand(64, 1, 8, 8), shared).shape, augment(torch.rand(1, 1, 8, 8), shared).shape
        (torch.Size([64, 1, 8, 8]), torch.Size([1, 1, 8, 8]))
    """

    def __init__(
        self,
        policy: str = "color_crop_cutout_flip_scale_rotate",
        *,
        brightness: float = 0.1,
        saturation: float = 1.0,
        contrast: float = 0.5,
        translation: float = 0.125,
        cutout: float = 0.5,
        scale: float = 1.2,
        rotation: float = 15.0,
        fill: float = 0.5,
    ) -> None:
        super().__init__()
        self.policy = _checked(policy.split("_"), ("color", "crop", "cutout", "flip", "scale", "rotate"))
        self.strength = _Strength(brightness, saturation, contrast, translation, cutout, fill, scale, rotation)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return _describe(self.policy, self.strength)

    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        """Draw ``operator`` (one index into the policy in all rows) and the parameters of all operators."""
        operator = torch.randint(len(self.policy), (1,), generator=generator).expand(n)
        return {"operator": operator, **_sample(n, generator, self.strength)}

    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Apply the drawn operator."""
        if not len(images):
            return images
        return _apply(self.policy[int(parameters["operator"][0])], images, parameters, self.strength)


def _checked(policy: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    if not policy or not set(policy) <= set(known):
        raise ValueError(f"policy: expected one or more of {', '.join(known)}, got {', '.join(policy) or 'none'}")
    return tuple(policy)


def _describe(policy: Sequence[str], strength: _Strength) -> str:
    return ", ".join([f"policy={'_'.join(policy)}", *(f"{name}={value}" for name, value in strength._asdict().items())])


def _sample(n: int, generator: torch.Generator, strength: _Strength) -> dict[str, Tensor]:
    # One block of numbers for all operators: a policy that leaves one out does not change what the others draw.
    uniform = torch.rand(n, 11, generator=generator)
    signed = 2 * uniform - 1
    return {
        "flip": uniform[:, 0] < 0.5,
        "brightness": strength.brightness * signed[:, 1],
        "saturation": 1 + strength.saturation * signed[:, 2],
        "contrast": 1 + strength.contrast * signed[:, 3],
        "shift": uniform[:, 4:6],
        "cutout": uniform[:, 6:8],
        "scale": 1 / strength.scale + (strength.scale - 1 / strength.scale) * uniform[:, 8:10],
        "angle": torch.deg2rad(strength.rotation * signed[:, 10]),
    }


def _apply(operator: str, images: Tensor, parameters: AugmentParameters, strength: _Strength) -> Tensor:
    match operator:
        case "flip":
            return operators.flip(images, parameters["flip"])
        case "color":
            return operators.color(images, *(parameters[name] for name in ("brightness", "saturation", "contrast")))
        case "crop" | "translation":
            return operators.translate(images, parameters["shift"], strength.translation, strength.fill)
        case "cutout":
            return operators.cutout(images, parameters["cutout"], strength.cutout, strength.fill)
        case "scale":
            return operators.affine(images, torch.diag_embed(1 / parameters["scale"]), strength.fill)
        case _:
            return operators.affine(images, _rotation(parameters["angle"]), strength.fill)


def _rotation(angle: Tensor) -> Tensor:
    sine, cosine = angle.sin(), angle.cos()
    return torch.stack([cosine, sine, -sine, cosine], dim=-1).view(-1, 2, 2)


class ResizedCrop(Augment):
    """Random box of each image, stretched to the image's size, and random horizontal flip.

    Area and aspect ratio of a box are drawn together up to ten times until it fits into the image; a box that still
    overhangs is cut down to the image.

    Args:
        scale: least and greatest share of the image's area.
        ratio: least and greatest ratio of width to height in pixels; drawn evenly on a logarithmic scale.
        flip_probability: share of images that are mirrored.

    Raises:
        ValueError: if the bounds are not in order or out of their range, or the probability is outside [0, 1].

    Example:
        >>> crop = ResizedCrop()
        >>> crop(torch.rand(4, 3, 8, 8), crop.sample(4, torch.Generator().manual_seed(0))).shape
        torch.Size([4, 3, 8, 8])

    References:
        Szegedy et al., "Going Deeper with Convolutions", CVPR 2015.
    """

    attempts = 10

    def __init__(
        self,
        scale: tuple[float, float] = (0.25, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_probability: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale: expected two shares of the area in order, in (0, 1], got {scale}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio: expected two ratios above 0 in order, got {ratio}")
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability: expected a share in [0, 1], got {flip_probability}")
        self.scale, self.ratio, self.flip_probability = scale, ratio, flip_probability

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"scale={self.scale}, ratio={self.ratio}, flip_probability={self.flip_probability}"

    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        """Draw ``area`` and ``ratio`` (candidates, ``(n, 10)``), ``position`` (``(n, 2)`` in [0, 1)) and ``flip``."""
        uniform = torch.rand(n, 2, self.attempts, generator=generator)
        low, high = torch.tensor(self.ratio).log()
        return {
            "area": self.scale[0] + (self.scale[1] - self.scale[0]) * uniform[:, 0],
            "ratio": (low + (high - low) * uniform[:, 1]).exp(),
            "position": torch.rand(n, 2, generator=generator),
            "flip": torch.rand(n, generator=generator) < self.flip_probability,
        }

    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Cut the first box that fits, stretch it, then mirror it."""
        form = images.shape[2] / images.shape[3]
        area, ratio = parameters["area"], parameters["ratio"]
        sides = torch.stack([(area / ratio / form).sqrt(), (area * ratio * form).sqrt()], dim=1)
        first = (sides <= 1).all(1).long().argmax(1)
        size = sides[torch.arange(len(sides)), :, first].clamp(max=1)
        return operators.flip(operators.resized_crop(images, size, parameters["position"]), parameters["flip"])
