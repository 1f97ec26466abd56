"""A callback that the fits of the kit add to the command line's own."""

from __future__ import annotations

import json
import time
from pathlib import Path

import lightning as L


class StepClock(L.Callback):
    """Writes how many steps a fit took and their mean time, the first ones left out.

    Args:
        path: the JSON file.
        warmup: steps that are not counted.
    """

    def __init__(self, path: str, warmup: int = 10) -> None:
        self.path, self.warmup = Path(path), warmup
        self.steps, self.began = 0, 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        self.steps += 1
        if self.steps == self.warmup:
            self.began = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation is part of the time, as the user waits for it too."""
        seconds, counted = time.monotonic() - self.began, self.steps - self.warmup
        mean = seconds / counted if counted > 0 else None
        epochs = trainer.current_epoch
        self.path.write_text(json.dumps({"steps": self.steps, "epochs": epochs, "seconds_per_step": mean}))
