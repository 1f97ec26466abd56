"""Callback that keeps the weights of the best validation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lightning_condkd.training.checkpoint_files import best_name, free_file
from lightning_condkd.training.resumable import ResumableModule
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.training.trainer_access import checkpoint_folder, monitored_by


class BestCheckpoint(Callback):
    """Keep the weights of the best validation in the folder of the run's checkpoints.

    They are in one file, such as ``best_student_accuracy.ckpt``, which ``test`` and ``export`` accept. It contains no
    optimizer, callback or memory bank: it is about half as large and cannot be resumed from. No file is written without
    validation data, for a module whose validations measure different networks, in a ``fast_dev_run``, without
    checkpoints, or if a ``ModelCheckpoint`` of the user monitors the same metric. A resumed run continues with the best
    value of the run before.

    The file is chosen on the validation images, so its accuracy on the same images is slightly too high.
    """

    def __init__(self) -> None:
        self.score: float | None = None
        self.path: str | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the weights if they are the best so far.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        value = _measured(trainer, pl_module)
        if value is None or not trainer.strategy.broadcast(self.score is None or value > self.score):
            return
        self.score, self.path = value, trainer.strategy.broadcast(self._target(trainer, pl_module))
        trainer.save_checkpoint(self.path, weights_only=True)

    def _target(self, trainer: L.Trainer, module: Any) -> str:  # noqa: ANN401
        folder = str(checkpoint_folder(trainer.checkpoint_callback) or trainer.default_root_dir)
        return free_file(folder, best_name(module.best_metric), own=self.path)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and its file."""
        return {"score": self.score, "path": self.path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both, unless the file is gone.

        Args:
            state_dict: result of :meth:`state_dict`.
        """
        if state_dict["path"] is not None and Path(state_dict["path"]).exists():
            self.score, self.path = state_dict["score"], state_dict["path"]


def monitors(callback: Callback, module: L.LightningModule) -> bool:
    """Return whether a callback keeps the best checkpoint by the module's own metric.

    Args:
        callback: any callback.
        module: the trained module.
    """
    metric = module.best_metric if isinstance(module, ResumableModule) else None
    return metric is not None and monitored_by(callback) == metric


def _measured(trainer: L.Trainer, module: L.LightningModule) -> float | None:
    """Return the value of the metric that chooses the best, ``None`` if this validation does not count."""
    if not isinstance(module, ResumableModule) or module.best_metric is None or trainer.state.fn != "fit":
        return None
    if trainer.sanity_checking or dev_steps(trainer) or trainer.checkpoint_callback is None:
        return None
    value = trainer.callback_metrics.get(module.best_metric)
    if value is None or any(monitors(callback, module) for callback in trainer.checkpoint_callbacks):
        return None
    return float(value) if math.isfinite(float(value)) else None
