"""Plain lines about the progress of a run, for logs without a progress bar."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from lightning_condkd.callbacks.parts.epochs import TimeLeft, epoch_title, figures
from lightning_condkd.progress import Lines


class EpochLines(Callback):
    """Log a plain line after each epoch, and during long epochs, validations, tests and predictions now and then.

    Example:
        >>> "EpochLines" in str(EpochLines())
        True
    """

    def __init__(self) -> None:
        self._since, self._time_left = 0.0, TimeLeft()
        self._training: Lines | None = None
        self._evaluation: Lines | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clocks, also for an epoch that is resumed within it.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        self._time_left.begin(trainer)
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of an epoch.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        self._since = time.perf_counter()
        self._training = Lines(epoch_title(trainer, pl_module), trainer.num_training_batches, "steps")

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ANN401 - Lightning's own signature
        """Print how far a long epoch is.

        Args:
            trainer: the trainer.
            args: not used.
        """
        if self._training and trainer.is_global_zero:
            self._training.advance(1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the number of the epoch, the figures, the time, and the time left for the run.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        seen = [f"{title} {value}" for title, value in figures(trainer, pl_module).items()]
        seconds = f"{time.perf_counter() - self._since:.1f} s"
        left = self._time_left.after(trainer.current_epoch + 1, trainer)
        rank_zero_info(f"{epoch_title(trainer, pl_module)}: {', '.join([*seen, seconds])}{left}")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the count of batches.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        counts = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._evaluation = Lines("validation", sum(counts), "batches")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the count of batches.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        self._evaluation = Lines("test", sum(trainer.num_test_batches), "batches")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the count of batches.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        self._evaluation = Lines("prediction", sum(trainer.num_predict_batches), "batches")

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ANN401 - Lightning's own signature
        """Count a batch.

        Args:
            trainer: the trainer.
            args: not used.
        """
        self._count(trainer)

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ANN401 - Lightning's own signature
        """Count a batch.

        Args:
            trainer: the trainer.
            args: not used.
        """
        self._count(trainer)

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ANN401 - Lightning's own signature
        """Count a batch.

        Args:
            trainer: the trainer.
            args: not used.
        """
        self._count(trainer)

    def _count(self, trainer: L.Trainer) -> None:
        if self._evaluation and trainer.is_global_zero:
            self._evaluation.advance(1)
