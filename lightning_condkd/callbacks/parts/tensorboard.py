"""Pictures in TensorBoard."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor


def show_in_tensorboard(trainer: L.Trainer, name: str, pixels: Tensor) -> None:
    """Add a picture at the current step to each TensorBoard logger of a run.

    Args:
        trainer: the trainer.
        name: title of the picture.
        pixels: ``(3, H, W)``, pixels in [0, 1].
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, trainer.global_step)
