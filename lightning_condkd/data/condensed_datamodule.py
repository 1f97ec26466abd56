"""DataModule for data-free distillation: condensed set, growing memory bank, and real images for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from torch.utils.data import DataLoader, SequentialSampler

from lightning_condkd import distributed
from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.loaders import DrawsByStep, step_loader
from lightning_condkd.data.mix import AnnealedMix, Mix
from lightning_condkd.data.transfer import TransferSet


class CondensedDataModule(L.LightningDataModule):
    """Combine a condensed set with the memory bank; the training loader yields the step numbers of a round.

    At every save, rows of the bank are written to ``bank/`` in the folder of the run's checkpoints; the checkpoint
    lists the files that it needs. A new fit starts with an empty bank, or with the images that ``transfer_set.append``
    stored before the first fit.

    Args:
        condensed: a condensed set, or the path of its file, see :meth:`CondensedSet.load`.
        batch_size: images in a distillation batch, over all ranks (our default 128; 256 in the official code of Fast).
        mix: mixture of a batch, see :class:`~lightning_condkd.data.transfer.TransferSet`.
        ipc: number of images per class to use from the set; ``None`` for all.
        bank_capacity: largest number of images in the bank, of which the oldest are dropped first; ``None`` keeps all.
        val_data: a datamodule of real images whose val and test loaders are used.
        val_dataloaders: loaders of ``(images, labels)`` with pixels in [0, 1] (or uint8) in place of ``val_data``.
            With several ranks, each reads all batches and keeps its own rows, so every image counts once. Several
            loaders (a list, a dictionary) are evaluated one after another: the first gives ``val/student_accuracy``,
            the best accuracy and the accuracy of the baseline, the next one ``val/student_accuracy/loader_1``.

    Example:
        >>> import torch
        >>> condensed = CondensedSet(torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> CondensedDataModule(condensed, ipc=1).transfer_set.condensed.labels
        tensor([0, 1, 2])
    """

    def __init__(
        self,
        condensed: CondensedSet | str | Path,
        *,
        batch_size: int = 128,
        mix: Mix | float | AnnealedMix = "union",
        ipc: int | None = None,
        bank_capacity: int | None = None,
        val_data: L.LightningDataModule | None = None,
        val_dataloaders: EVAL_DATALOADERS | None = None,
    ) -> None:
        super().__init__()
        if val_data is not None and val_dataloaders is not None:
            raise ValueError("expected val_data or val_dataloaders, got both: leave one out")
        loaded = condensed if isinstance(condensed, CondensedSet) else CondensedSet.load(condensed)
        chosen = loaded if ipc is None else loaded.subset(ipc)
        self.transfer_set = TransferSet(chosen, MemoryBank(bank_capacity), mix=mix, batch_size=batch_size)
        self.val_data = val_data
        self.val_dataloaders = val_dataloaders

    def prepare_data(self) -> None:
        """Call ``prepare_data`` of the real images."""
        if self.val_data is not None:
            self.val_data.prepare_data()

    def setup(self, stage: str) -> None:
        """Call ``setup`` of the real images.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ValueError: if there are no images to predict.
        """
        if stage == "predict" and self.val_data is None and self.val_dataloaders is None:
            raise ValueError(
                "found no images to predict: give val_data or val_dataloaders, or in place of CondensedDataModule "
                "--data ImageFolderDataModule --data.root FOLDER"
            )
        if self.val_data is not None:
            self.val_data.trainer = self.trainer
            self.val_data.setup(stage)

    def train_dataloader(self) -> DataLoader[int]:
        """Return the numbers of the steps in a round of the trained module's method."""
        module: object = None if self.trainer is None else self.trainer.lightning_module
        if not isinstance(module, DrawsByStep):
            raise TypeError(
                f"CondensedDataModule is for CondKD, got {type(module).__name__}: "
                "train a plain classifier on an image datamodule instead"
            )
        return step_loader(module.steps_per_epoch)

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Return the real images for validation after every round; empty if none were given."""
        if self.val_data is not None:
            return _rows_of_this_rank(self.val_data.val_dataloader())
        return [] if self.val_dataloaders is None else _rows_of_this_rank(self.val_dataloaders)

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Return the real images for the test."""
        if self.val_data is not None:
            return _rows_of_this_rank(self.val_data.test_dataloader())
        return self.val_dataloader()

    def predict_dataloader(self) -> EVAL_DATALOADERS:
        """Return the real images for prediction; Lightning divides them among the ranks."""
        if self.val_data is not None:
            return self.val_data.predict_dataloader()
        return self.val_dataloaders


class _RowsOfThisRank:
    """This rank's rows ``[rank::world_size]`` of a loader's batches; there may be none in the last batch.

    Lightning's sampler repeats images until every rank has equally many, which would change an accuracy.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        rows = slice(distributed.rank(), None, distributed.world_size())
        for batch in self.loader:
            yield tuple(part[rows] for part in batch) if isinstance(batch, (tuple, list)) else batch


def _rows_of_this_rank(loaders: EVAL_DATALOADERS) -> EVAL_DATALOADERS:
    if isinstance(loaders, CombinedLoader):
        return CombinedLoader(_rows_of_this_rank(loaders.iterables), loaders._mode)
    if isinstance(loaders, Mapping):
        return {name: _rows_of_this_rank(loader) for name, loader in loaders.items()}
    if isinstance(loaders, (tuple, list)):
        return [_rows_of_this_rank(loader) for loader in loaders]
    in_order = isinstance(loaders, DataLoader) and isinstance(loaders.sampler, SequentialSampler)
    return _RowsOfThisRank(loaders) if in_order and distributed.world_size() > 1 else loaders
