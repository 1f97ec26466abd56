"""Corrections of Lightning's loop counters: steps under manual optimisation, epochs, and a pending validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import lightning as L
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.progress import _ProcessedTracker


def _nothing() -> None:
    """Do nothing, in place of the counting hooks of an optimizer."""


def count_step(module: L.LightningModule) -> None:
    """Count this ``training_step`` as one step; call it first in the step.

    Under manual optimisation Lightning counts every optimizer step, so ``max_steps`` and ``every_n_train_steps`` would
    depend on the method. Private names of Lightning are used in this file only.

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
    """Count the current epoch as started if Lightning has not; call it before every training step.

    After a resume from a checkpoint of the last batch of an epoch, Lightning (2.6.6) starts the next epoch without
    counting it as started. Checkpoints of that run then count the epoch as finished, and a second resume would repeat
    the first steps of an epoch.

    Args:
        trainer: at the start of a batch.
    """
    progress = trainer.fit_loop.epoch_progress
    total = cast(_ProcessedTracker, progress.total)
    if total.ready == total.processed:
        progress.increment_ready()
        progress.increment_started()


def epochs_done(trainer: L.Trainer) -> float:
    """Return the number of epochs before the start of this run, with the share of one that is resumed within it.

    Args:
        trainer: at the start of the training.
    """
    loop, batches = trainer.fit_loop, trainer.fit_loop.epoch_loop.batch_progress
    within = loop.restarted_mid_epoch and not batches.is_last_batch
    done = cast(_ProcessedTracker, batches.current).processed if within else 0
    return trainer.current_epoch + done / trainer.num_training_batches


def validate_on_resume(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Make a resumed run validate first if it was saved between the last step of an epoch and the validation.

    Lightning (2.6.6) would continue with the next epoch and skip the validation and all hooks at the end of the epoch.
    Its counters are set to those of a run that stopped in the first batch of that validation.

    Args:
        trainer: the trainer.
        checkpoint: the content read by Lightning, before its counters are restored.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop")
    if loops is None or not _is_before_validation(trainer, loops):
        return
    for count in ("total", "current"):
        loops["epoch_loop.batch_progress"][count]["completed"] += 1
        loops["epoch_loop.val_loop.batch_progress"][count] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}


def _is_before_validation(trainer: L.Trainer, loops: Mapping[str, Any]) -> bool:
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]["total"]
    is_last_step = batches["is_last_batch"] and batches["total"]["completed"] == batches["total"]["processed"] - 1
    every = trainer.check_val_every_n_epoch
    if not is_last_step or epochs["processed"] != epochs["started"] - 1 or every is None:
        return False
    return trainer.enable_validation and trainer.val_check_interval == 1.0 and epochs["started"] % every == 0
