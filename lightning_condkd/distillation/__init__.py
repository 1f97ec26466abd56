"""Losses that train the student."""

from lightning_condkd.distillation.attention import AttentionDistillation, AttentionTransfer
from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.catkd import CATKD
from lightning_condkd.distillation.correlation import DIST
from lightning_condkd.distillation.crd import CRD
from lightning_condkd.distillation.decoupled import DKD
from lightning_condkd.distillation.embeddings import NormDirection, VkD
from lightning_condkd.distillation.feature_sampling import FeatureSampling
from lightning_condkd.distillation.fitnet import FitNet
from lightning_condkd.distillation.generative import GenDD
from lightning_condkd.distillation.inputs import LossContext, LossSpec, NetworkShapes
from lightning_condkd.distillation.logits import CrossEntropy, KLDistillation, LogitsL1Distillation
from lightning_condkd.distillation.msarc import MSARC
from lightning_condkd.distillation.multi_level import MLKD
from lightning_condkd.distillation.relations import PKT, RKD, SP
from lightning_condkd.distillation.reviewkd import ReviewKD
from lightning_condkd.distillation.side_heads import OFAKD
from lightning_condkd.distillation.simkd import SimKD
from lightning_condkd.distillation.standardized import LSKD, LumiNet
from lightning_condkd.distillation.teacher_classifier import TeacherClassifier
from lightning_condkd.distillation.vid import VID
from lightning_condkd.distillation.weighted import WeightedLosses

__all__ = [
    "CATKD",
    "CRD",
    "DIST",
    "DKD",
    "LSKD",
    "MLKD",
    "MSARC",
    "OFAKD",
    "PKT",
    "RKD",
    "SP",
    "VID",
    "AttentionDistillation",
    "AttentionTransfer",
    "CrossEntropy",
    "DistillationLoss",
    "FeatureSampling",
    "FitNet",
    "GenDD",
    "KLDistillation",
    "LogitsL1Distillation",
    "LossContext",
    "LossSpec",
    "LumiNet",
    "NetworkShapes",
    "NormDirection",
    "ReviewKD",
    "SimKD",
    "TeacherClassifier",
    "VkD",
    "WeightedLosses",
]
