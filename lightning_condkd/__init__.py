"""Distil a classifier when its training data is gone: expand a condensed set by inverting the teacher."""

from typing import TYPE_CHECKING

from lightning_condkd.lazy_names import lazy_names

__version__ = "0.1.0"

__all__ = [
    "CMI",
    "DAFL",
    "DFAD",
    "DFQ",
    "NAYER",
    "PREDFKD",
    "ZSKT",
    "AttentionDistillation",
    "Cadence",
    "Classification",
    "CondKD",
    "Condensation",
    "CondensedDataModule",
    "CondensedSet",
    "CropFlip",
    "DeepInversion",
    "DiffDFKD",
    "DigitsDataModule",
    "DigitsNet",
    "Distillation",
    "Draw",
    "ExpertTrajectories",
    "Fast",
    "FeatureAlignment",
    "GenerativeCondensation",
    "ImageFolderDataModule",
    "KLDistillation",
    "LogitsL1Distillation",
    "MemoryBank",
    "MomentAlignment",
    "Observer",
    "ParquetDataModule",
    "StreamedFolderDataModule",
    "TaskSpec",
    "TorchvisionDataModule",
    "TransferSet",
    "__version__",
    "seeded_generator",
    "step_loader",
    "synthesize",
]

if TYPE_CHECKING:
    from lightning_condkd.alignment import FeatureAlignment, MomentAlignment
    from lightning_condkd.augment import CropFlip
    from lightning_condkd.data import (
        CondensedDataModule,
        CondensedSet,
        DigitsDataModule,
        ImageFolderDataModule,
        MemoryBank,
        ParquetDataModule,
        StreamedFolderDataModule,
        TorchvisionDataModule,
        TransferSet,
        step_loader,
    )
    from lightning_condkd.distillation import AttentionDistillation, KLDistillation, LogitsL1Distillation
    from lightning_condkd.inversion import CMI, DAFL, DFAD, DFQ, NAYER, PREDFKD, ZSKT, DeepInversion, DiffDFKD, Fast
    from lightning_condkd.models import DigitsNet, Observer
    from lightning_condkd.modules import (
        Classification,
        Condensation,
        CondKD,
        Distillation,
        ExpertTrajectories,
        GenerativeCondensation,
    )
    from lightning_condkd.randomness import Draw, seeded_generator
    from lightning_condkd.rounds import Cadence
    from lightning_condkd.steps import synthesize
    from lightning_condkd.types import TaskSpec
else:
    BASICS = ("randomness", "rounds", "types", "augment", "models")
    STAGES = ("distillation", "alignment", "data", "inversion", "steps", "modules")
    __getattr__, __dir__ = lazy_names(globals(), BASICS + STAGES)
