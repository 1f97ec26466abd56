"""Callbacks that several tests use."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L


class SaveAt(L.Callback):
    """Writes a checkpoint after so many steps."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


class DieAt(L.Callback):
    """Ends the process of one rank after so many steps: by ``raise``, or by a signal."""

    def __init__(self, rank: int, step: int, how: str) -> None:
        self.rank, self.step, self.how = rank, step, how

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_rank != self.rank or trainer.global_step != self.step:
            return
        if self.how == "raise":
            raise ValueError("the cause")
        os.kill(os.getpid(), signal.Signals[self.how])


class Forget(L.Callback):
    """Takes all weights from the student before the validation of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch and trainer.state.fn == "fit":
            for parameter in pl_module.student.parameters():
                parameter.data.zero_()
