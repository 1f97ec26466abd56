"""DiffAugment and DSA, the differentiable augmentations of small-data GANs and of condensation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_condkd.augment.base import Augment, AugmentParameters
from lightning_condkd.functional import augmentation as operators
from lightning_condkd.precision import at_least_float32_dtype

AugmentName = Literal["dsa", "dsa_digits", "none"]
POLICIES = {"dsa": "color_crop_cutout_flip_scale_rotate", "dsa_digits": "color_crop_cutout_scale_rotate"}

DiffAugmentOperator = Literal["color", "translation", "cutout", "flip"]


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
    """DiffAugment: apply every operator of the policy, with separate parameters for each image.

    Args:
        policy: operators in the order of application (our default).
        brightness: largest offset, in the units of [0, 1]; 0.25 is the published 0.5, which is for pixels in [-1, 1].
        saturation: factors lie in ``1 +- saturation``, around the pixel's mean over channels (published 1).
        contrast: factors lie in ``1 +- contrast``, around the image's mean (published 0.5).
        translation: largest shift as a share of the side (published 1/8).
        cutout: side of the square as a share of the image's side (published 0.5).
        fill: value of pixels shifted in or cut out; 0.5 is the published 0, which is for pixels in [-1, 1].

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
        """Draw the parameters of all operators, also those that the policy leaves out."""
        return _sample(n, generator, self.strength)

    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Apply the operators one after the other."""
        for operator in self.policy:
            images = _apply(operator, images, parameters, self.strength)
        return images


class SiameseAugment(Augment):
    """DSA: apply one operator, drawn for the whole batch; ``sample(1, ...)`` shares parameters over all images.

    The published values are for normalised pixels. Saturation, contrast and the geometry do not depend on that scale.
    The brightness offset of 0.5 and the fill of 0 do: with CIFAR-10's standard deviation of 0.2 and mean of 0.47 they
    become 0.1 and about 0.5.

    Args:
        policy: operator names joined by underscores; for digits the paper leaves out ``flip``.
        brightness: largest offset, in the units of [0, 1].
        saturation: factors lie in ``1 +- saturation``, around the pixel's mean over channels (published 1).
        contrast: factors lie in ``1 +- contrast``, around the image's mean (published 0.5).
        translation: largest shift of ``crop`` as a share of the side (published 0.125).
        cutout: side of the square as a share of the image's side (published 0.5).
        scale: sides are divided by factors in ``(1 / scale, scale)``, each axis by its own (published 1.2).
        rotation: largest angle in degrees (published 15).
        fill: value of pixels that come in from outside or are cut out; published as the mean of the data set.

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
    # One block of numbers for all operators: leaving an operator out does not change the draws of the others.
    uniform = torch.rand(n, 11, generator=generator, dtype=at_least_float32_dtype())
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


def resolve_augment(
    augment: Augment | AugmentName | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    mirrored: bool = False,
) -> Augment | None:
    """Return an augmentation given by name or as an object.

    DSA's code works on normalised pixels, with a fill of 0 (the mean of the data) and a largest brightness offset of
    0.5. In the units of [0, 1] the fill becomes the mean, and the offset half the standard deviation, both averaged
    over channels.

    Args:
        augment: ``dsa`` for all of DSA; ``dsa_digits`` for DSA without its flip, as its authors use it on MNIST and
            SVHN; ``none`` for no augmentation (for nested arguments of the command line, which cannot be null);
            anything else is returned unchanged.
        mean: the networks' mean of each channel, in the units of [0, 1]; ``None`` fills with 0.5.
        std: the networks' standard deviation of each channel; ``None`` gives an offset of 0.1.
        mirrored: whether the mirror image of every image is in the batch too (FYI), so that ``dsa`` needs no flip.

    Raises:
        ValueError: if there is no policy of that name.

    Example:
        >>> resolve_augment("dsa_digits", mean=[0.3], std=[0.4]).strength[:2], resolve_augment(None, None, None)
        ((0.2, 1.0), None)
    """
    if augment is None or isinstance(augment, Augment):
        return augment
    if augment not in get_args(AugmentName):
        known = ", ".join(get_args(AugmentName))
        raise ValueError(f"augment: expected an Augment, None or one of {known}, got {augment!r}")
    if augment == "none":
        return None
    brightness = 0.1 if std is None else fmean(std) / 2
    policy = POLICIES["dsa_digits" if mirrored else augment]
    return SiameseAugment(policy, brightness=brightness, fill=0.5 if mean is None else fmean(mean))
