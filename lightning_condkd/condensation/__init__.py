"""How a small set of images is made that stands for a dataset."""

from lightning_condkd.condensation.base import CondensationMethod, RealImages
from lightning_condkd.condensation.dm import DistributionMatching
from lightning_condkd.condensation.networks import FreshNetworks

__all__ = ["CondensationMethod", "DistributionMatching", "FreshNetworks", "RealImages"]
