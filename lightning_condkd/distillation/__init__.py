"""Losses that train the student."""

from lightning_condkd.distillation.attention import AttentionDistillation
from lightning_condkd.distillation.base import DistillationLoss, LossContext, LossSpec, NetworkShapes
from lightning_condkd.distillation.correlation import DIST
from lightning_condkd.distillation.decoupled import DKD
from lightning_condkd.distillation.embeddings import NormDirection, VkD
from lightning_condkd.distillation.feature_sampling import FeatureSampling
from lightning_condkd.distillation.generative import GenDD
from lightning_condkd.distillation.logits import CrossEntropy, KLDistillation, LogitsL1Distillation
from lightning_condkd.distillation.multi_level import MLKD
from lightning_condkd.distillation.relations import PKT, RKD, SP
from lightning_condkd.distillation.side_heads import OFAKD
from lightning_condkd.distillation.standardized import LSKD, LumiNet
from lightning_condkd.distillation.teacher_classifier import TeacherClassifier
from lightning_condkd.distillation.weighted import WeightedLosses

__all__ = [
    "AttentionDistillation",
    "CrossEntropy",
    "DIST",
    "DKD",
    "DistillationLoss",
    "FeatureSampling",
    "GenDD",
    "KLDistillation",
    "LSKD",
    "LogitsL1Distillation",
    "LossContext",
    "LossSpec",
    "LumiNet",
    "MLKD",
    "NetworkShapes",
    "NormDirection",
    "OFAKD",
    "PKT",
    "RKD",
    "SP",
    "TeacherClassifier",
    "VkD",
    "WeightedLosses",
]
