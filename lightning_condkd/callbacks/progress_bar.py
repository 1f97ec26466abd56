"""Progress bar with the phase of the run, and plain lines for logs without a progress bar."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info

from lightning_condkd.modules.condkd import CondKD


class PhaseProgressBar(TQDMProgressBar):
    """Progress bar that shows the phase, the agreement with the teacher and the accuracy.

    Args:
        refresh_rate: steps between two updates of the bar.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the values shown after the bar.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        metrics = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        if not isinstance(pl_module, CondKD) or pl_module.unit is None:
            return dict(metrics)
        return {"phase": pl_module.unit.phase} | _figures(trainer, pl_module) | metrics


class EpochLines(Callback):
    """Log a plain line after each epoch, for logs without a progress bar.

    Example:
        >>> "EpochLines" in str(EpochLines())
        True
    """

    def __init__(self) -> None:
        self._since = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the number of the epoch, the figures and the time.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        most = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) >= 0 else ""
        figures = [f"{title} {value}" for title, value in _figures(trainer, pl_module).items()]
        seconds = f"{time.perf_counter() - self._since:.1f} s"
        rank_zero_info(f"{epoch_name(pl_module)} {trainer.current_epoch + 1}{most}: {', '.join([*figures, seconds])}")


def epoch_name(module: L.LightningModule) -> str:
    """Return the name of an epoch of a module, such as ``round``.

    Args:
        module: the module.
    """
    return "round" if isinstance(module, CondKD) else "epoch"


def _figures(trainer: L.Trainer, module: L.LightningModule) -> dict[str, str]:
    known = trainer.callback_metrics
    shown = {name: name for name in known}
    if isinstance(module, CondKD):
        shown = {"agreement": "distillation/agreement", "accuracy": "val/student_accuracy"}
    return {name: f"{float(known[key]):.3f}" for name, key in shown.items() if key in known}
