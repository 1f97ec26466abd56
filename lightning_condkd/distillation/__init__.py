"""What the student minimises."""

from lightning_condkd.distillation.losses import DistillationLoss, KLDistillation, LogitsL1Distillation

__all__ = ["DistillationLoss", "KLDistillation", "LogitsL1Distillation"]
