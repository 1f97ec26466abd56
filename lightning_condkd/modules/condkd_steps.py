"""One round of CondKD: generator, discriminator and student in turn, under manual optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.distributed import sync_buffers, sync_running_statistics
from lightning_condkd.modules.condkd_parts import CondKDParts
from lightning_condkd.modules.parts.distillation_step import DistillationStep
from lightning_condkd.modules.parts.divergence import IMAGES
from lightning_condkd.modules.parts.synthesis_step import SynthesisStep, Synthesized
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Unit
from lightning_condkd.training.loop_counters import tick_once
from lightning_condkd.training.meters import bank_figures
from lightning_condkd.training.run_length import (
    round_length,
    units_of_step,
)
from lightning_condkd.types import Synthetic


class CondKDSteps(CondKDParts):
    """The updates of a round; each ``training_step`` is one of them."""

    unit: Unit | None = None

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Take one unit of one phase; in a ``fast_dev_run`` one of each phase.

        Args:
            batch: not used: a loader restarts at 0 when a run resumes within a round.
            batch_idx: position in the round.
        """
        tick_once(self)
        for unit in units_of_step(self.trainer, self.inversion.cadence, self.current_epoch, batch_idx):
            self._take(unit)
            sync_running_statistics([self.student, self.inversion])
        if batch_idx == round_length(self.trainer, self.inversion.cadence) - 1:
            self._end_round(unit)

    def _take(self, unit: Unit) -> None:
        self.unit = unit
        self._set_student_mode(unit)
        with self.stopwatch.running(unit.phase):
            match unit.phase:
                case "synthesize":
                    self._synthesize(unit)
                case "distill":
                    self._distill(unit)

    def _set_student_mode(self, unit: Unit) -> None:
        training = unit.phase == "distill"
        if self.student.training != training:
            sync_buffers([self.student])
            self.student.train(training)

    def _draw(self, unit: Unit) -> Draw:
        return Draw(self.seed, unit.counter, self.global_rank, self.trainer.world_size)

    def _synthesize(self, unit: Unit) -> None:
        draw = self._draw(unit)
        if unit.first:
            self._turns.forget(self, "synthesis", self.inversion.per_round())
            self.inversion.start(unit, draw)
        synthesized = self._generator_step(unit, draw)
        if self._aligning is not None:
            self._discriminator_step(self._aligning, synthesized, unit, draw)
        if unit.last:
            if self.inversion.source == "bank":
                self.stop_if_diverged()  # before the bank gets images of it; a live method's block may be one step
            for name in self.inversion.finish(unit):
                # Written by hand from unscaled gradients: the precision plugin's scaler must not touch it.
                self._turns.get(self, name).optimizer.step()
            if self.inversion.source == "bank":
                images, labels = self.inversion.collect()
                with self._transfer.bank.running():
                    self._transfer.append(images, cast(Tensor, labels), unit.round)

    def _generator_step(self, unit: Unit, draw: Draw) -> Synthesized:
        self._turns.scale(self, "synthesis", self.inversion.lr_factor(unit))
        with self._turns.turn(self, "synthesis", self.inversion.gradient_clip) as step:
            synthesized = self.synthesis_step.generator(unit, draw)
            if synthesized.total.values:
                step(synthesized.total.total())
        self.meters.add(synthesized.total.values, "synthesis/")
        own, total = synthesized.losses()
        self._watch("synthesis", unit, {**synthesized.total.values, "total": total}, synthesized.synthetic.images)
        self.inversion.after_step(synthesized.synthetic, synthesized.output, own, total, unit)
        return synthesized

    def _discriminator_step(
        self, alignment: FeatureAlignment, synthesized: Synthesized, unit: Unit, draw: Draw
    ) -> None:
        labels, fake = cast(Tensor, synthesized.synthetic.labels), cast(Tensor, synthesized.embedding).detach()
        condensed = self.synthesis_step.condensed_embedding(labels, unit, draw)
        self.meters.add(alignment.accuracy(condensed, fake, labels), "alignment/")
        with self._turns.turn(self, "discriminator") as step:
            terms = alignment.discriminator_loss(condensed, fake, labels)
            total = terms.total()
            step(total)
        self.meters.add(terms.values, "alignment/")
        self._watch("discriminator", unit, {**terms.values, "total": total})

    def _distill(self, unit: Unit) -> None:
        draw = self._draw(unit)
        with self._turns.turn(self, "student", self.student_gradient_clip) as step:
            distilled = self.distillation_step(unit, draw, self.device)
            step(distilled.loss)
        self.meters.add(distilled.observed, "distillation/")
        images = None if distilled.synthetic is None else distilled.synthetic.images
        self._watch("student", unit, {"loss": distilled.loss}, images)
        if distilled.synthetic is not None:
            self._replay(distilled.synthetic, unit, draw)

    def _replay(self, synthetic: Synthetic, unit: Unit, draw: Draw) -> None:
        with self._turns.turn(self, "replay") as step:
            terms = self.inversion.replay_loss(synthetic, self.teacher, unit, draw)
            if terms is not None:
                total = terms.total()
                step(total)
                self.meters.add(terms.values, "replay/")
                self._watch("replay", unit, {**terms.values, "total": total}, synthetic.images)

    def _watch(self, optimizer: str, unit: Unit, values: Mapping[str, Tensor], images: Tensor | None = None) -> None:
        largest = {} if images is None else {IMAGES: images.detach().amax()}
        self.losses.add(optimizer, unit.counter, {**values, **largest})

    @property
    def synthesis_step(self) -> SynthesisStep:
        """The forward passes of synthesis with the parts of this module."""
        return SynthesisStep(self.teacher, self.student, self.inversion, self._aligning, self._transfer)

    @property
    def distillation_step(self) -> DistillationStep:
        """The student's forward pass with the parts of this module."""
        return DistillationStep(
            self.teacher, self.student, self.distillation, self.augment, self.inversion, self._transfer
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
