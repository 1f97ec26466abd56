"""Training steps of CondKD: updates of generator, discriminator and student in turn, with manual optimisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from lightning_condkd.distributed import sync_buffers
from lightning_condkd.modules.parts.condkd_parts import CondKDParts
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Unit
from lightning_condkd.steps import DistillationStep, SynthesisStep, Update
from lightning_condkd.training.loop_counters import count_step
from lightning_condkd.training.manual_optimization import ManualOptimization
from lightning_condkd.training.meters import bank_figures
from lightning_condkd.training.run_length import round_length, student_steps, units_of_step

LOGGED_UNDER = {
    "synthesis": "synthesis/",
    "discriminator": "alignment/",
    "student": "distillation/",
    "replay": "replay/",
}


class CondKDSteps(CondKDParts):
    """CondKD's updates of a round; each ``training_step`` is one of them."""

    unit: Unit | None = None

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Run one unit of one phase; in a ``fast_dev_run`` one of each phase.

        Args:
            batch: not used, because a loader restarts at 0 when a run resumes within a round.
            batch_idx: position in the round.
        """
        count_step(self)
        for unit in units_of_step(self.trainer, self.inversion.cadence, self.current_epoch, batch_idx):
            self._take(unit)
            sync_buffers([self.student], statistics_of=[self.inversion, self.distillation])
        if batch_idx == round_length(self.trainer, self.inversion.cadence) - 1:
            self._end_round(unit)

    def _take(self, unit: Unit) -> None:
        self.unit = unit
        self._set_student_mode(unit)
        draw = Draw(self.seed, unit.counter, self.global_rank, self.trainer.world_size)
        with self.stopwatch.running(unit.phase):
            match unit.phase:
                case "synthesize":
                    self._record(unit, self.synthesis_step.take(unit, draw, self._turns))
                    if unit.last:
                        self._finish_synthesis(unit)
                case "distill":
                    step, clip = self.distillation_step, self.student_gradient_clip
                    self._record(unit, step.take(unit, draw, self._turns, clip, self.progress))

    def _set_student_mode(self, unit: Unit) -> None:
        training = unit.phase == "distill" or (unit.phase == "synthesize" and self.inversion.student_mode == "train")
        if self.student.training != training:  # else all layers would be visited in every step
            self.student.train(training)
            self.distillation.train(training)

    def _record(self, unit: Unit, updates: Iterable[Update]) -> None:
        for update in updates:
            self.losses.add(update.optimizer, unit.counter, update.losses)
            self.meters.add(update.observed, LOGGED_UNDER[update.optimizer])

    def _finish_synthesis(self, unit: Unit) -> None:
        stores = self.inversion.source == "bank"
        if stores:
            self.stop_if_diverged()  # before the bank gets its images; a block of a live method may be one step
        self.synthesis_step.finish(unit, self._turns)
        if stores:
            images, labels = self.inversion.collect()
            with self._transfer.bank.running():
                self._transfer.append(images, cast(Tensor, labels), unit.round)

    @property
    def student_steps(self) -> tuple[int, int | None]:
        """Number of the student's steps that are done, and of those in the whole run; ``None`` if it has no end."""
        cadence = self.inversion.cadence
        done, total = student_steps(self.trainer, cadence, self.unit or cadence.unit(0, 0))
        return max(0, done), total

    @property
    def _turns(self) -> ManualOptimization:
        return ManualOptimization(self, self._optimizer_names)

    @property
    def synthesis_step(self) -> SynthesisStep:
        """The synthesis step with the parts of this module."""
        pupil = self.classifier if self.distillation.changes_prediction() else self.student
        if pupil is not self.student:  # a new wrapper of the student's layers, in train mode at first
            pupil.train(self.student.training)
        return SynthesisStep(self.teacher, pupil, self.inversion, self._aligning, self._transfer)

    @property
    def distillation_step(self) -> DistillationStep:
        """The student's step with the parts of this module."""
        return DistillationStep(
            self.teacher,
            self.student,
            self.distillation,
            self.augment,
            self.inversion,
            self._transfer,
            self.mixing,
        )

    def _end_round(self, unit: Unit) -> None:
        self.stop_if_diverged()
        if unit.phase != "idle":
            scheduler = cast(LRScheduler, self.lr_schedulers())
            scheduler.step()
        figures = bank_figures(self._transfer.bank, self._transfer.condensed.num_classes)
        self.log_dict(
            {f"bank/{name}": v for name, v in figures.items()},
            on_step=False,
            on_epoch=True,
            batch_size=1,
            sync_dist=True,
        )
        self.log_dict(self.meters.pop(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
