"""Checks before a fit that refuse trainer options and callbacks which do not work with a module."""

from __future__ import annotations

from collections.abc import Iterator

import lightning as L
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    DeviceStatsMonitor,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
    ThroughputMonitor,
    WeightAveraging,
)
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lightning_condkd.training.described_module import DescribedModule
from lightning_condkd.training.student_averaging import StudentAveraging
from lightning_condkd.training.trainer_access import callbacks_of, monitored_by, real_data_of

WHOLE_MODULE = "treats all networks of the module as one, including frozen ones"
AVERAGE = "use lightning_condkd.callbacks.StudentAveraging for a student, leave it out elsewhere"
ONE_NETWORK: dict[type[L.Callback], str] = {
    WeightAveraging: f"{WHOLE_MODULE}: {AVERAGE}",
    StochasticWeightAveraging: f"{WHOLE_MODULE}: {AVERAGE}",
    ModelPruning: f"{WHOLE_MODULE}: leave it out, and prune the trained network",
}
AUTOMATIC: dict[type[L.Callback], str] = {
    GradientAccumulationScheduler: "cannot reach optimizers that take turns: leave it out, and raise the batch sizes",
    SpikeDetection: "looks for one loss, and there are several: leave it out, a run that diverges is stopped anyway",
}


def check_trainer(module: DescribedModule) -> None:
    """Check before a fit that all options of the trainer work with the module.

    Args:
        module: the module, attached to its trainer.

    Raises:
        ValueError: if an option does not work, with advice.
    """
    trainer = module.trainer
    if trainer.state.fn != TrainerFn.FITTING:
        return
    for found in (*_of_length(trainer), *_of_data(module), *_of_callbacks(module), *_of_steps(module)):
        raise ValueError(f"{type(module).__name__}: {found}")
    _remark_on_monitors(module)


def remark_on_going_on(trainer: L.Trainer) -> None:
    """Warn if a trainer continues its last fit without a checkpoint.

    Args:
        trainer: the trainer, after a checkpoint was restored.
    """
    if trainer.global_step and not trainer.ckpt_path:
        rank_zero_warn(
            f"this fit continues at step {trainer.global_step} of the trainer's last one, but with new optimizers and "
            "schedules: pass the ckpt_path of a checkpoint to continue exactly, or use a new trainer to start again"
        )


def _of_length(trainer: L.Trainer) -> Iterator[str]:
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            yield f"{name}=0 trains nothing: raise it, or call validate or test to measure only"


def _of_data(module: DescribedModule) -> Iterator[str]:
    trainer = module.trainer
    plain = module.trains_one_network and real_data_of(trainer) is None
    if getattr(trainer, "overfit_batches", 0) and not plain:
        yield "overfit_batches takes the first batches of a loader, but these images are drawn by step: leave it out"
    if callbacks_of(trainer, BatchSizeFinder) and not plain:
        yield "BatchSizeFinder finds no batch size that is only a matter of memory here: leave it out, and set them"


def _of_callbacks(module: DescribedModule) -> Iterator[str]:
    trainer = module.trainer
    refused = {} if module.trains_one_network else ONE_NETWORK
    refused = refused if module.automatic_optimization else {**refused, **AUTOMATIC}
    for kind, reason in refused.items():
        for callback in callbacks_of(trainer, kind):
            if not isinstance(callback, StudentAveraging):
                yield f"{type(callback).__name__} {reason}"
    for kind in (LearningRateMonitor, DeviceStatsMonitor, ThroughputMonitor):
        if callbacks_of(trainer, kind) and not trainer.loggers:
            yield f"{kind.__name__} writes to a logger, and there is none: leave it out, or give one"
    if callbacks_of(trainer, BackboneFinetuning) and not hasattr(module, "backbone"):
        yield "BackboneFinetuning needs a part of the name backbone: leave it out, set requires_grad of layers"
    for finder in callbacks_of(trainer, LearningRateFinder):
        wanted = (finder._attr_name,) if finder._attr_name else ("lr", "learning_rate")
        if not module.trains_one_network or not any(hasattr(module, name) for name in wanted):
            yield "LearningRateFinder finds no one learning rate to set: leave it out, and set those of the optimizers"


def _of_steps(module: DescribedModule) -> Iterator[str]:
    trainer = module.trainer
    joins = callbacks_of(trainer, GradientAccumulationScheduler) or trainer.accumulate_grad_batches != 1
    if module.plain_steps and (joins or trainer.gradient_clip_val is not None):
        yield (
            "takes a plain step of SGD for each batch, as published: leave out gradient_clip_val, "
            "accumulate_grad_batches and GradientAccumulationScheduler"
        )
    if module.automatic_optimization:
        return
    if trainer.accumulate_grad_batches != 1:
        yield "accumulate_grad_batches cannot reach optimizers that take turns: leave it out, and raise the batch sizes"
    if trainer.gradient_clip_val is not None:
        yield f"gradient_clip_val cannot reach optimizers that take turns: leave it out{module.clipping}"
    for callback in trainer.checkpoint_callbacks:
        if getattr(callback, "_train_time_interval", None) is not None:
            yield (
                "ModelCheckpoint(train_time_interval=...) saves nothing where optimizers take turns: put "
                "lightning_condkd.callbacks.TimedCheckpoint(minutes=...) in its place"
            )


def _remark_on_monitors(module: DescribedModule) -> None:
    for callback in callbacks_of(module.trainer, L.Callback):
        monitor = monitored_by(callback)
        if isinstance(monitor, str) and not monitor.startswith((*module.metrics, "epoch", "step")):
            rank_zero_warn(
                f"{type(callback).__name__} monitors {monitor!r}, which {type(module).__name__} does not log (its "
                f"names begin with {', '.join(module.metrics)}): unless a callback of yours does, it will end the run"
            )
