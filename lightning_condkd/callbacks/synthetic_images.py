"""Callback that makes pictures of synthetic and condensed images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_condkd.callbacks.parts.tensorboard import show_in_tensorboard
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.figures import png, shown_names
from lightning_condkd.image_grids import labeled_grid
from lightning_condkd.modules.condensation import Condensation
from lightning_condkd.modules.condkd import CondKD
from lightning_condkd.modules.generative_condensation import GenerativeCondensation
from lightning_condkd.pixels import to_pixels
from lightning_condkd.training.outputs import run_folder
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.types import Synthetic
from lightning_condkd.writing import write_atomic


class SyntheticImages(Callback):
    """Show condensed images and the latest synthetic images in TensorBoard, in a row for each class with its name.

    At the end of a condensation, the learned set is drawn to ``condensed.png`` in the folder of the run.

    Args:
        per_class: largest number of images in a row in TensorBoard.
        max_classes: rows of a picture in TensorBoard.
        every_n_rounds: rounds between two pictures.
    """

    def __init__(self, per_class: int = 8, max_classes: int = 10, every_n_rounds: int = 5) -> None:
        self.per_class, self.max_classes, self.every_n_rounds = per_class, max_classes, every_n_rounds
        self.path: Path | None = None
        self._shown_condensed = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the condensed images again in a new run.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        self._shown_condensed = False

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the pictures.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        due = trainer.current_epoch % self.every_n_rounds == 0 or trainer.current_epoch + 1 == trainer.max_epochs
        if not due or not isinstance(pl_module, CondKD) or not isinstance(pl_module.transfer_set, TransferSet):
            return
        transfer = pl_module.transfer_set
        stored = Synthetic(transfer.bank.images, transfer.bank.labels)
        synthetic = stored if pl_module.inversion.source == "bank" else pl_module.inversion.collect()
        names = _names(transfer.condensed)[: self.max_classes]
        if (sheet := latest_sheet(synthetic, names, self.per_class)) is not None:
            show_in_tensorboard(trainer, "synthetic", sheet)
        if not self._shown_condensed:  # it does not change
            sheet = set_sheet(transfer.condensed, self.per_class, self.max_classes)
            show_in_tensorboard(trainer, "condensed", sheet)
        self._shown_condensed = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the picture of a learned set, except in a ``fast_dev_run``.

        Args:
            trainer: the trainer.
            pl_module: the trained module, which has written its set.
        """
        if not isinstance(pl_module, (Condensation, GenerativeCondensation)) or dev_steps(trainer):
            return
        path = run_folder(trainer) / "condensed.png"  # on every rank: the ranks agree on it
        if trainer.is_global_zero:
            write_atomic(path, png(set_sheet(CondensedSet.load(pl_module.output))))
            self.path = path


def set_sheet(condensed: CondensedSet, per_class: int = 10, max_classes: int = 100, min_pixels: int = 64) -> Tensor:
    """Return a picture with a row of images for each class, and its name.

    Args:
        condensed: the set.
        per_class: largest number of images in a row.
        max_classes: largest number of rows.
        min_pixels: see :func:`~lightning_condkd.image_grids.labeled_grid`.

    Returns:
        ``(3, H, W)``, pixels in [0, 1].

    Example:
        >>> condensed = CondensedSet(torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1]))
        >>> set_sheet(condensed).shape[1]
        134
    """
    rows = (condensed.labels < max_classes).nonzero().flatten()
    names = _names(condensed)[:max_classes]
    return labeled_grid(condensed.pixels(rows), condensed.labels[rows], names, columns=per_class, min_pixels=min_pixels)


def latest_sheet(synthetic: Synthetic, names: Sequence[str], per_class: int) -> Tensor | None:
    """Return a picture with a row of the latest synthetic images for each class; ``None`` if there are none.

    Args:
        synthetic: labelled images, uint8 or pixels in the units of [0, 1]; the last ones of each class are shown.
        names: names of the classes to show, from class 0 on.
        per_class: images in a row.

    Returns:
        ``(3, H, W)``, pixels in [0, 1].

    Example:
        >>> synthetic = Synthetic(torch.rand(3, 1, 8, 8), torch.tensor([1, 1, 1]))
        >>> latest_sheet(synthetic, ["cat", "dog"], per_class=2).shape[1]
        134
    """
    labels = cast(Tensor, synthetic.labels).cpu()
    latest = [(labels == label).nonzero().flatten()[-per_class:] for label in range(len(names))]
    rows = torch.cat(latest)
    if not len(rows):
        return None
    return labeled_grid(to_pixels(synthetic.images.cpu()[rows]), labels[rows], names, columns=per_class)


def _names(condensed: CondensedSet) -> list[str]:
    return shown_names(condensed.num_classes, condensed.info.class_names)
