"""What Lightning counts: one step for each training step, and every epoch that has begun."""

from __future__ import annotations

from typing import cast

import lightning as L
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.progress import _ProcessedTracker


def _nothing() -> None:
    """Stand in for the counting hooks of an optimizer."""


def tick_once(module: L.LightningModule) -> None:
    """Count this ``training_step`` as one step; call it first in the step.

    Under manual optimisation Lightning counts every optimizer step, which makes ``max_steps`` and
    ``every_n_train_steps`` depend on the method. Private names of Lightning are used here and nowhere else.

    Args:
        module: a module under manual optimisation, attached to a trainer.
    """
    optimizers = module.optimizers()
    for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
        if isinstance(optimizer, LightningOptimizer):
            optimizer._on_before_step = optimizer._on_after_step = _nothing
    progress = module.trainer.fit_loop.epoch_loop.manual_optimization
    progress._on_before_step()
    progress._on_after_step()


def count_epoch(trainer: L.Trainer) -> None:
    """Count the running epoch as begun where Lightning has not; call it before every training step.

    After a resume from a checkpoint of the last batch of an epoch Lightning (2.6.6) goes on with the next epoch without
    counting it as begun. Checkpoints of that run look as if their epoch were over: a second resume would take an
    epoch's first steps again.

    Args:
        trainer: at the start of a batch.
    """
    progress = trainer.fit_loop.epoch_progress
    total = cast(_ProcessedTracker, progress.total)
    if total.ready == total.processed:
        progress.increment_ready()
        progress.increment_started()
