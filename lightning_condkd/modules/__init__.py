"""The LightningModules."""

from lightning_condkd.modules.classification import Classification
from lightning_condkd.modules.condensation import Condensation
from lightning_condkd.modules.condkd import CondKD

__all__ = ["Classification", "CondKD", "Condensation"]
