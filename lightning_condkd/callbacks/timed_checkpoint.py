"""Callback that saves checkpoints at time intervals, for long rounds and epochs."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lightning_condkd.training.checkpoint_files import free_file
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.training.trainer_access import checkpoint_folder

FILE = "by_time.ckpt"
RANKS_AGREE_EVERY = 10  # steps between two checks of the clock with several ranks, which have to communicate for it


class TimedCheckpoint(Callback):
    """Save a checkpoint between two steps if the last one of the run is older than a number of minutes.

    It is one file, ``by_time.ckpt``, in the folder of the trainer's first checkpoint callback; each save replaces it.
    It is not written while other checkpoints are saved often enough. Use it in place of Lightning's
    ``ModelCheckpoint(train_time_interval=...)``, which saves nothing under manual optimisation. A run without
    checkpoints does not save these either. The command line adds one to every run.

    Args:
        minutes: age of the last checkpoint at which the next is saved.

    Raises:
        ValueError: if ``minutes`` is not positive.

    Example:
        >>> TimedCheckpoint(minutes=30).minutes
        30
    """

    def __init__(self, minutes: float = 10.0) -> None:
        if not minutes > 0:
            raise ValueError(f"minutes: expected a positive number, got {minutes}; remove the callback to disable it")
        self.minutes = minutes
        self._path: str | None = None
        self._saved_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        self._path, self._saved_at = None, time.monotonic()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restart the clock, since every checkpoint can be resumed from, whichever callback saves it.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
            checkpoint: the content to be written.
        """
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:  # noqa: ANN401
        """Save if the last checkpoint is old enough.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        folder = checkpoint_folder(trainer.checkpoint_callback)
        if folder is None or dev_steps(trainer):
            return
        if trainer.world_size > 1 and trainer.global_step % RANKS_AGREE_EVERY:
            return
        due = time.monotonic() - self._saved_at >= 60 * self.minutes
        if trainer.strategy.broadcast(due):
            self._path = self._path or trainer.strategy.broadcast(free_file(str(folder), FILE))
            trainer.save_checkpoint(self._path)
