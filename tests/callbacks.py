"""Callbacks that several tests use."""

from __future__ import annotations

from pathlib import Path

import lightning as L


class SaveAt(L.Callback):
    """Writes a checkpoint after so many steps."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
