"""Losses that train the student."""

from lightning_condkd.distillation.attention import AttentionDistillation
from lightning_condkd.distillation.losses import DistillationLoss, KLDistillation, LogitsL1Distillation

__all__ = ["AttentionDistillation", "DistillationLoss", "KLDistillation", "LogitsL1Distillation"]
