"""How a small set of images is made that stands for a dataset."""

from lightning_condkd.condensation.base import CondensationMethod, RealBatch
from lightning_condkd.condensation.dm import DistributionMatching

__all__ = ["CondensationMethod", "DistributionMatching", "RealBatch"]
