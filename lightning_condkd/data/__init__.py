"""Condensed sets, the memory bank, their mixture, and real images for evaluation."""

from typing import TYPE_CHECKING

from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.loaders import StepStream, step_loader
from lightning_condkd.data.mix import AnnealedMix
from lightning_condkd.data.transfer import TransferBatch, TransferSet
from lightning_condkd.formats.contents import CondensedInfo
from lightning_condkd.lazy_names import lazy_names

__all__ = [
    "AnnealedMix",
    "CondensedDataModule",
    "CondensedInfo",
    "CondensedSet",
    "DigitsDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MemoryBank",
    "ParquetDataModule",
    "StepStream",
    "StreamedFolderDataModule",
    "TorchvisionDataModule",
    "TransferBatch",
    "TransferSet",
    "step_loader",
]

if TYPE_CHECKING:
    from lightning_condkd.data.condensed_datamodule import CondensedDataModule
    from lightning_condkd.data.image_datamodules import (
        DigitsDataModule,
        ImageDataModule,
        ImageFolderDataModule,
        TorchvisionDataModule,
    )
    from lightning_condkd.data.parquet_datamodule import ParquetDataModule
    from lightning_condkd.data.streamed_datamodule import StreamedFolderDataModule
else:  # these import Lightning
    __getattr__, __dir__ = lazy_names(
        globals(), ("image_datamodules", "condensed_datamodule", "streamed_datamodule", "parquet_datamodule")
    )
