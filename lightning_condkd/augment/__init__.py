"""Augmentation of image batches on the device, differentiable, with parameters of its own."""

from lightning_condkd.augment.base import Augment, AugmentParameters, take
from lightning_condkd.augment.named import AugmentName, resolve_augment
from lightning_condkd.augment.policies import DifferentiableAugment, SiameseAugment
from lightning_condkd.augment.windows import CropFlip, ResizedCrop, RollFlip

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
