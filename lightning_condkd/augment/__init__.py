"""Differentiable augmentations of image batches, with explicitly drawn parameters."""

from lightning_condkd.augment.base import Augment, AugmentParameters, take
from lightning_condkd.augment.geometric import CropFlip, ResizedCrop, RollFlip
from lightning_condkd.augment.policies import AugmentName, DifferentiableAugment, SiameseAugment, resolve_augment

__all__ = [
    "Augment",
    "AugmentName",
    "AugmentParameters",
    "CropFlip",
    "DifferentiableAugment",
    "ResizedCrop",
    "RollFlip",
    "SiameseAugment",
    "resolve_augment",
    "take",
]
