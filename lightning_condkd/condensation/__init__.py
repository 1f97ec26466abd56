"""How a small set of images is made that stands for a dataset."""

from lightning_condkd.condensation.base import CondensationMethod, RealImages
from lightning_condkd.condensation.dm import DistributionMatching
from lightning_condkd.condensation.networks import FreshNetworks
from lightning_condkd.condensation.realism import RealismSelection
from lightning_condkd.condensation.selection import Herding, KCentre, KMeans, RandomSelection, SelectionMethod

__all__ = [
    "CondensationMethod",
    "DistributionMatching",
    "FreshNetworks",
    "Herding",
    "KCentre",
    "KMeans",
    "RandomSelection",
    "RealImages",
    "RealismSelection",
    "SelectionMethod",
]
