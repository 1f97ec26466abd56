"""Distil a classifier when its training data is gone: expand a condensed set by inverting the teacher."""

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.data import CondensedDataModule, CondensedSet, MemoryBank, TransferSet
from lightning_condkd.models import Observer
from lightning_condkd.modules import CondKD

__version__ = "0.1.0"

__all__ = [
    "CondKD",
    "CondensedDataModule",
    "CondensedSet",
    "FeatureAlignment",
    "MemoryBank",
    "Observer",
    "TransferSet",
    "__version__",
]
