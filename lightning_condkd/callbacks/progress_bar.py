"""A progress line that names the phase, and plain lines where there is none."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info

from lightning_condkd.modules.condkd import CondKD


class PhaseProgressBar(TQDMProgressBar):
    """A progress line that names the phase, the agreement with the teacher and the accuracy.

    Args:
        refresh_rate: units between two updates of the line.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return what stands behind the bar.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        metrics = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        if not isinstance(pl_module, CondKD) or pl_module.unit is None:
            return dict(metrics)
        return {"phase": pl_module.unit.phase} | _figures(trainer, pl_module) | metrics


class EpochLines(Callback):
    """A plain line after each epoch, for logs without a progress bar.

    Example:
        >>> "EpochLines" in str(EpochLines())
        True
    """

    def __init__(self) -> None:
        self._since = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the clock.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how far the run is.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        most = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) >= 0 else ""
        figures = [f"{title} {value}" for title, value in _figures(trainer, pl_module).items()]
        seconds = f"{time.perf_counter() - self._since:.1f} s"
        rank_zero_info(f"{epoch_name(pl_module)} {trainer.current_epoch + 1}{most}: {', '.join([*figures, seconds])}")


def epoch_name(module: L.LightningModule) -> str:
    """Return what an epoch of a module is called.

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
