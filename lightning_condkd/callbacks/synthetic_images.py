"""Callback that makes pictures of synthetic and condensed images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.modules.condensation import Condensation
from lightning_condkd.modules.condkd import CondKD
from lightning_condkd.modules.generative_condensation import GenerativeCondensation
from lightning_condkd.pixels import to_pixels
from lightning_condkd.training.outputs import run_folder
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.types import Synthetic
from lightning_condkd.writing import write_atomic


class SyntheticImages(Callback):
    """Show condensed images and the latest synthetic images of each class in TensorBoard.

    At the end of a condensation, the learned set is drawn to ``condensed.png`` in the folder of the run.

    Args:
        per_class: images of each kind in a row.
        max_classes: rows of the picture in TensorBoard.
        every_n_rounds: rounds between two pictures.
    """

    def __init__(self, per_class: int = 8, max_classes: int = 10, every_n_rounds: int = 5) -> None:
        self.per_class, self.max_classes, self.every_n_rounds = per_class, max_classes, every_n_rounds
        self.path: Path | None = None

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the picture.

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
        picture = class_grid(transfer.condensed, synthetic, self.per_class, self.max_classes)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("condensed | synthetic", picture, trainer.global_step)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the picture of a learned set, except in a ``fast_dev_run``.

        Args:
            trainer: the trainer.
            pl_module: the trained module, which has written its set.
        """
        if not isinstance(pl_module, (Condensation, GenerativeCondensation)) or dev_steps(trainer):
            return
        path, buffer = run_folder(trainer) / "condensed.png", io.BytesIO()  # on every rank: the ranks agree on it
        if trainer.is_global_zero:
            cast(Any, to_pil_image)(set_sheet(CondensedSet.load(pl_module.output))).save(buffer, "PNG")
            write_atomic(path, buffer.getvalue())
            self.path = path


def set_sheet(condensed: CondensedSet, per_class: int = 10, max_classes: int = 100, least_size: int = 32) -> Tensor:
    """Return a picture with a row of images for each class.

    Args:
        condensed: the set.
        per_class: largest number of images in a row.
        max_classes: largest number of rows.
        least_size: smaller images are enlarged by a whole factor to about this many pixels.

    Returns:
        ``(3, H, W)``, pixels in [0, 1]; missing images are grey.

    Example:
        >>> condensed = CondensedSet(torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1]))
        >>> set_sheet(condensed, least_size=8).shape, set_sheet(condensed).shape
        (torch.Size([3, 19, 19]), torch.Size([3, 67, 67]))
    """
    labels, length = range(min(condensed.num_classes, max_classes)), min(per_class, int(condensed.counts.max()))
    rows = [condensed.pixels(condensed.class_indices(label)[:length]) for label in labels]
    factor = max(1, least_size // max(condensed.image_shape[1:]))
    filled = torch.cat([_filled(row, length, condensed.image_shape) for row in rows])
    large = filled.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return make_grid(large.clamp(0, 1), nrow=length, padding=1, pad_value=0.5)


def _filled(row: Tensor, length: int, image_shape: tuple[int, int, int]) -> Tensor:
    return torch.cat([row.view(-1, *image_shape), torch.full((length, *image_shape), 0.5)])[:length]


def class_grid(condensed: CondensedSet, synthetic: Synthetic, per_class: int, max_classes: int) -> Tensor:
    """Return a picture with one row for each class: condensed images, then the latest synthetic ones.

    Args:
        condensed: the condensed set.
        synthetic: labelled images, uint8 or pixels in the units of [0, 1]; the last ones of each class are shown.
        per_class: images of each kind in a row.
        max_classes: rows of the picture.

    Returns:
        ``(3, H, W)``, pixels in [0, 1]; missing images are grey.

    Example:
        >>> condensed = CondensedSet(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
        >>> synthetic = Synthetic(torch.rand(3, 1, 8, 8), torch.tensor([1, 1, 1]))
        >>> class_grid(condensed, synthetic, per_class=2, max_classes=10).shape
        torch.Size([3, 19, 37])
    """
    images, labels = synthetic.images.cpu(), cast(Tensor, synthetic.labels).cpu()
    rows = []
    for label in range(min(condensed.num_classes, max_classes)):
        rows += [condensed.pixels(condensed.class_indices(label)[:per_class])]
        rows += [to_pixels(images[(labels == label).nonzero().flatten()[-per_class:]])]
    filled = [_filled(row, per_class, condensed.image_shape) for row in rows]
    return make_grid(torch.cat(filled).clamp(0, 1), nrow=2 * per_class, padding=1, pad_value=0.5)
