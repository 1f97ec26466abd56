"""Losses that train the student."""

from lightning_condkd.distillation.attention import AttentionDistillation
from lightning_condkd.distillation.base import DistillationLoss, LossContext, LossSpec, NetworkShapes
from lightning_condkd.distillation.feature_sampling import FeatureSampling
from lightning_condkd.distillation.generative import GenDD
from lightning_condkd.distillation.logits import KLDistillation, LogitsL1Distillation
from lightning_condkd.distillation.teacher_classifier import TeacherClassifier

__all__ = [
    "AttentionDistillation",
    "DistillationLoss",
    "FeatureSampling",
    "GenDD",
    "KLDistillation",
    "LogitsL1Distillation",
    "LossContext",
    "LossSpec",
    "NetworkShapes",
    "TeacherClassifier",
]
