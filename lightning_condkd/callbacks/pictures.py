"""Pictures of the bank beside the condensed set."""

from __future__ import annotations

from typing import cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchvision.utils import make_grid

from lightning_condkd.data.condensed import CondensedSet, to_pixels
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.modules.condkd import CondKD
from lightning_condkd.types import Synthetic


class SyntheticImages(Callback):
    """The latest synthetic images of each class beside its condensed ones, in TensorBoard.

    Args:
        per_class: images of each kind in a row.
        max_classes: rows of the picture.
        every_n_rounds: rounds between two pictures.
    """

    def __init__(self, per_class: int = 8, max_classes: int = 10, every_n_rounds: int = 5) -> None:
        self.per_class, self.max_classes, self.every_n_rounds = per_class, max_classes, every_n_rounds

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
    shape = (per_class, *condensed.image_shape)
    filled = [torch.cat([row.view(-1, *shape[1:]), torch.full(shape, 0.5)])[:per_class] for row in rows]
    return make_grid(torch.cat(filled).clamp(0, 1), nrow=2 * per_class, padding=1, pad_value=0.5)
