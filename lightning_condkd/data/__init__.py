"""Condensed sets, the memory bank, their mixture, and the real images to measure on."""

from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.data.condensed import CondensedInfo, CondensedSet
from lightning_condkd.data.datamodule import CondensedDataModule
from lightning_condkd.data.datamodule_images import (
    DigitsDataModule,
    ImageDataModule,
    ImageFolderDataModule,
    TorchvisionDataModule,
)
from lightning_condkd.data.exports import export_dc, export_mtt, export_png
from lightning_condkd.data.importers import import_condensed, import_dc, import_decoded, import_folder, import_mtt
from lightning_condkd.data.steps import StepStream, step_loader
from lightning_condkd.data.transfer import TransferBatch, TransferSet

__all__ = [
    "CondensedDataModule",
    "CondensedInfo",
    "CondensedSet",
    "DigitsDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MemoryBank",
    "StepStream",
    "TorchvisionDataModule",
    "TransferBatch",
    "TransferSet",
    "export_dc",
    "export_mtt",
    "export_png",
    "import_condensed",
    "import_dc",
    "import_decoded",
    "import_folder",
    "import_mtt",
    "step_loader",
]
