"""Differentiable augmentations of image batches, with explicitly drawn parameters."""

from lightning_condkd.augment.base import Augment, AugmentParameters, take
from lightning_condkd.augment.geometric import CropFlip, ResizedCrop, RollFlip
from lightning_condkd.augment.mixing import CutMix, Mixing, Mixup, RandomMixing
from lightning_condkd.augment.policies import AugmentName, DifferentiableAugment, SiameseAugment, resolve_augment

__all__ = [
    "Augment",
    "AugmentName",
    "AugmentParameters",
    "CropFlip",
    "CutMix",
    "DifferentiableAugment",
    "Mixing",
    "Mixup",
    "RandomMixing",
    "ResizedCrop",
    "RollFlip",
    "SiameseAugment",
    "resolve_augment",
    "take",
]
