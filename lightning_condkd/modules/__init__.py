"""LightningModules for distillation, condensation and classification."""

from lightning_condkd.modules.classification import Classification
from lightning_condkd.modules.condensation import Condensation
from lightning_condkd.modules.condkd import CondKD
from lightning_condkd.modules.distillation import Distillation
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.modules.generative_condensation import GenerativeCondensation

__all__ = ["Classification", "CondKD", "Condensation", "Distillation", "ExpertTrajectories", "GenerativeCondensation"]
