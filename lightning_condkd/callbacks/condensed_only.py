"""Callback that trains a baseline student on condensed images alone, at equal cost."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torchmetrics.classification import MulticlassAccuracy

from lightning_condkd.augment import Mixing
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.models import Observer
from lightning_condkd.models.finite import broken_parts
from lightning_condkd.modules.condkd import CondKD
from lightning_condkd.progress import each
from lightning_condkd.randomness import Draw
from lightning_condkd.steps import OptimizerTurns
from lightning_condkd.steps.part_checks import check_mixing
from lightning_condkd.training.divergence import LogitsWatch, LossWatch, check_logits, symptoms
from lightning_condkd.training.held_out import loaders_in_turn
from lightning_condkd.training.run_length import run_steps, share_done, student_steps, units_of_run
from lightning_condkd.training.trainer_access import callbacks_of


class CondensedOnlyBaseline(Callback):
    """Before the run, train the student on condensed images alone, from the same initial weights.

    Optimizer, schedule, gradient clipping, loss scaling, augmentation, batch size and number of steps are those of the
    run. With several ranks every rank uses the whole batch. The baseline is evaluated on the first validation loader;
    the summary contains the result as ``condensed_only_accuracy``. A run resumed with another length keeps the result,
    with a warning.

    Args:
        mixing: mixture of the views of a batch for a second baseline, the strongest simple one that we know, whose
            accuracy is ``condensed_only_mixed_accuracy``; ``None`` for the plain one alone. If the run mixes its views
            itself, so does the plain baseline.
    """

    def __init__(self, mixing: Mixing | None = None) -> None:
        self.mixing = mixing
        self.accuracy: float | None = None
        self.mixed_accuracy: float | None = None
        self.steps: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train and evaluate the baseline, unless the run is resumed and has done so before.

        Args:
            trainer: the trainer.
            pl_module: the trained module.

        Raises:
            ValueError: if there is no validation data, or the run has no end.
            FloatingPointError: if the baseline diverges.
        """
        if not isinstance(pl_module, CondKD):
            return
        steps = run_steps(trainer, pl_module.inversion.cadence.length)
        if self.accuracy is not None:
            self._remark(steps)
            return
        if not steps:
            raise ValueError("CondensedOnlyBaseline takes as many steps as the run: set trainer.max_epochs")
        if not loaders_in_turn(trainer):
            raise ValueError("CondensedOnlyBaseline needs validation data: give the datamodule val_data")
        if callbacks_of(trainer, Timer):
            rank_zero_warn(f"CondensedOnlyBaseline takes the run's {steps} steps first, and they count for max_time")
        check_mixing(self.mixing, pl_module.distillation)
        self.steps = steps
        rank_zero_info("condensed-only baseline: the same student steps on the condensed images alone ...")
        with pl_module.stopwatch.running("condensed_only"), trainer.precision_plugin.forward_context():
            self.accuracy = _accuracy(_train_on_condensed(pl_module, pl_module.mixing), trainer, pl_module)
            rank_zero_info(f"condensed-only baseline: {100 * self.accuracy:.2f} %")
            if self.mixing is not None:
                student = _train_on_condensed(pl_module, self.mixing)
                self.mixed_accuracy = _accuracy(student, trainer, pl_module)
                rank_zero_info(f"condensed-only baseline, mixed views: {100 * self.mixed_accuracy:.2f} %")

    def _remark(self, steps: int | None) -> None:
        if self.mixing is not None and self.mixed_accuracy is None:
            rank_zero_warn(
                "the run that is resumed had no condensed-only baseline with mixed views, and the weights to begin it "
                "with are gone: start a new run for one"
            )
        if self.steps is not None and steps != self.steps:
            rank_zero_warn(
                f"the condensed-only baseline was measured after {self.steps} steps, but this run has {steps}: "
                "for one of equal cost start a new run"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the result and the number of its training steps."""
        return {"accuracy": self.accuracy, "mixed_accuracy": self.mixed_accuracy, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both.

        Args:
            state_dict: result of :meth:`state_dict`.
        """
        self.accuracy, self.steps = state_dict["accuracy"], state_dict.get("steps")
        self.mixed_accuracy = state_dict.get("mixed_accuracy")


def _train_on_condensed(module: CondKD, mixing: Mixing | None) -> Observer:
    transfer = module.distillation_step.transfer_set
    student = copy.deepcopy(module.student).train()
    alone = TransferSet(transfer.condensed, mix=1.0, batch_size=transfer.batch_size)
    loss = copy.deepcopy(module.distillation)
    step = module.distillation_step._replace(student=student, distillation=loss, transfer_set=alone, mixing=mixing)
    optimizer = module.make_student_optimizer(student, loss)
    scheduler = module.make_student_scheduler(optimizer)
    scaled = getattr(module.trainer.precision_plugin, "scaler", None) is not None
    turns = OptimizerTurns({"student": optimizer}, torch.amp.GradScaler(module.device.type, enabled=scaled))
    watch = LossWatch()
    cadence = module.inversion.cadence
    units, count = units_of_run(module.trainer, cadence), run_steps(module.trainer, cadence.length) or 0
    for unit, ends_round in each(units, "condensed-only baseline", count, "steps"):
        if unit.phase == "distill":
            draw = Draw(module.seed, unit.counter)
            done = share_done(*student_steps(module.trainer, cadence, unit))
            for update in step.take(unit, draw, turns, module.student_gradient_clip, done):
                watch.add(update.optimizer, unit.counter, update.losses)
            if ends_round:
                scheduler.step()
                _check(module.trainer, student, watch, unit.round, scaled)
    loss.eval()
    return loss.predictor(student.eval())


def _check(trainer: L.Trainer, student: Observer, watch: LossWatch, round: int, scaled: bool) -> None:
    broken = broken_parts(student)
    if broken or not bool(watch.finite(scaled)):
        raise FloatingPointError(
            f"the condensed-only baseline diverged in round {round + 1}: {symptoms(trainer, watch, broken)}. It takes "
            "the steps of the run: lower the learning rate of student_optimizer, or remove CondensedOnlyBaseline"
        )
    watch.clear(scaled)


@torch.no_grad()
def _accuracy(student: Observer, trainer: L.Trainer, module: CondKD) -> float:
    metric = MulticlassAccuracy(student.num_classes, average="micro").to(module.device)
    watch = LogitsWatch()
    for batch in loaders_in_turn(trainer)[0]:
        images, labels = module.real_batch(trainer.strategy.batch_to_device(batch, module.device))
        if len(labels):
            logits = student(images).logits
            watch.add("baseline", logits)
            metric.update(logits, labels)
    check_logits(watch, "baseline", "the condensed-only baseline", module)
    return float(metric.compute())
