"""Losses that train the student."""

from lightning_condkd.distillation.attention import AttentionDistillation
from lightning_condkd.distillation.base import DistillationLoss, LossContext, LossSpec, NetworkShapes
from lightning_condkd.distillation.logits import KLDistillation, LogitsL1Distillation
from lightning_condkd.distillation.weighted import WeightedLosses

__all__ = [
    "AttentionDistillation",
    "DistillationLoss",
    "KLDistillation",
    "LogitsL1Distillation",
    "LossContext",
    "LossSpec",
    "NetworkShapes",
    "WeightedLosses",
]
