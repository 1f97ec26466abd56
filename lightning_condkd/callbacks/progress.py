"""A progress line that names the phase."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

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
        line: dict[str, Any] = {"phase": pl_module.unit.phase}
        shown = {"agreement": "distillation/agreement", "accuracy": "val/student_accuracy"}
        known = trainer.callback_metrics
        return line | {name: f"{float(known[key]):.3f}" for name, key in shown.items() if key in known} | metrics
