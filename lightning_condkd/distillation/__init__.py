"""Losses that train the student."""

from lightning_condkd.distillation.attention import AttentionDistillation, AttentionTransfer
from lightning_condkd.distillation.base import DistillationLoss, LossContext, LossSpec, NetworkShapes
from lightning_condkd.distillation.catkd import CATKD
from lightning_condkd.distillation.crd import CRD
from lightning_condkd.distillation.fitnet import FitNet
from lightning_condkd.distillation.logits import KLDistillation, LogitsL1Distillation
from lightning_condkd.distillation.msarc import MSARC
from lightning_condkd.distillation.reviewkd import ReviewKD
from lightning_condkd.distillation.simkd import SimKD
from lightning_condkd.distillation.vid import VID

__all__ = [
    "CATKD",
    "CRD",
    "MSARC",
    "VID",
    "AttentionDistillation",
    "AttentionTransfer",
    "DistillationLoss",
    "FitNet",
    "KLDistillation",
    "LogitsL1Distillation",
    "LossContext",
    "LossSpec",
    "NetworkShapes",
    "ReviewKD",
    "SimKD",
]
