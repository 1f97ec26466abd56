"""A callback that writes down where a run is, and changes nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L


class PhaseMarks(L.Callback):
    """Rank 0 adds a line to a file where a phase begins.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark(trainer, "sanity check")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark(trainer, "training")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._mark(trainer, "validation")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._mark(trainer, "save")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark(trainer, "end")

    def _mark(self, trainer: L.Trainer, phase: str) -> None:
        if trainer.is_global_zero:
            with self.path.open("a") as stream:
                stream.write(f"{phase}\n")
