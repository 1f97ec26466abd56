"""Published policies by name, at the strengths that suit a network's normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Literal, get_args

from lightning_condkd.augment.base import Augment
from lightning_condkd.augment.policies import SiameseAugment

AugmentName = Literal["dsa", "dsa_digits", "none"]
POLICIES = {"dsa": "color_crop_cutout_flip_scale_rotate", "dsa_digits": "color_crop_cutout_scale_rotate"}


def resolve_augment(
    augment: Augment | AugmentName | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    mirrored: bool = False,
) -> Augment | None:
    """Return an augmentation that may be given by name.

    DSA's code works on normalised pixels: what comes in from outside is zero there, the mean of the data, and the
    largest offset of brightness is 0.5 there. Here the fill is the mean over channels and the offset half the standard
    deviation, also over channels.

    Args:
        augment: ``dsa`` for all of DSA, ``dsa_digits`` for DSA without its flip, as its authors have it on MNIST and
            SVHN, ``none`` for none, which a nested argument of the command line can say where it cannot say null;
            anything else is returned as it is.
        mean: what the networks subtract from each channel, in the units of [0, 1]; ``None`` fills with 0.5.
        std: what they divide by; ``None`` for an offset of 0.1.
        mirrored: whether every image is there with its mirror image (FYI), so that ``dsa`` needs no flip.

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
