"""Student step: draw images, augment them, compare the student with the teacher."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_condkd.augment import Augment
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.functional.divergence import agreement
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Unit
from lightning_condkd.steps.optimizer_turns import LARGEST_PIXEL, OptimizerTurns, Update
from lightning_condkd.steps.part_checks import check_replayed
from lightning_condkd.types import NetworkOutput, Synthetic


class Distilled(NamedTuple):
    """Result of one student step.

    Args:
        loss: scalar with its graph.
        observed: values to log.
        synthetic: the images rendered for this step; ``None`` if they came from the bank.
    """

    loss: Tensor
    observed: dict[str, Tensor]
    synthetic: Synthetic | None


class DistillationStep(NamedTuple):
    """One student step, under a trainer or in a plain PyTorch loop.

    Args:
        teacher: the frozen teacher.
        student: the student, in train mode.
        distillation: loss of the student.
        augment: view of the images, the same for both networks.
        inversion: the method, built; it renders the synthetic images if it is ``live``.
        transfer_set: source of the images.
    """

    teacher: Observer
    student: Observer
    distillation: DistillationLoss
    augment: Augment
    inversion: Inversion
    transfer_set: TransferSet

    def take(self, unit: Unit, draw: Draw, turns: OptimizerTurns, gradient_clip: float | None = None) -> list[Update]:
        """Take the step, then that of the method's replay memory if it has one.

        Args:
            unit: the current unit.
            draw: its randomness.
            turns: the optimizers.
            gradient_clip: largest norm of the student's gradient; ``None`` for no limit.
        """
        with turns.turn("student", gradient_clip) as step:
            distilled = self(unit, draw)
            step(distilled.loss)
        if distilled.synthetic is None:
            return [Update("student", {"loss": distilled.loss}, distilled.observed)]
        losses = {"loss": distilled.loss, LARGEST_PIXEL: distilled.synthetic.images.amax()}
        update = Update("student", losses, distilled.observed)
        return [update, *self._replay(distilled.synthetic, unit, draw, turns)]

    def _replay(self, synthetic: Synthetic, unit: Unit, draw: Draw, turns: OptimizerTurns) -> list[Update]:
        with turns.turn("replay") as step:
            terms = self.inversion.replay_loss(synthetic, self.teacher, unit, draw)
            if terms is None:
                return []
            check_replayed(self.inversion, list(turns.optimizers))
            total = terms.total()
            step(total)
        self.inversion.check_reached("replay")
        losses = {**terms.values, "total": total, LARGEST_PIXEL: synthetic.images.amax()}
        return [Update("replay", losses, terms.values)]

    def __call__(self, unit: Unit, draw: Draw) -> Distilled:
        """Return the loss with its graph, values to log and the rendered images.

        Args:
            unit: the current unit.
            draw: randomness of the step.
        """
        device = next(self.student.parameters()).device
        synthetic = self._sample(unit, draw)
        batch = self.transfer_set.draw(draw, device) if synthetic is None else self.transfer_set.blend(*synthetic, draw)
        images = self.augment.view(batch.images, draw, "distillation view")
        wants = {"embedding": self.distillation.needs_embedding}
        with torch.no_grad():
            teacher = self.teacher(images, **wants, maps=self.distillation.teacher_maps)
        student = self.student(images, **wants, maps=self.distillation.student_maps)
        labels = torch.where(batch.labels < 0, teacher.logits.argmax(1), batch.labels)
        loss = self._loss(student, teacher, labels, batch.from_condensed)
        share = agreement(student.logits.detach(), teacher.logits)
        observed = {"loss": loss, "agreement": share, "condensed_share": batch.from_condensed.float().mean()}
        return Distilled(loss, observed, synthetic)

    @torch.no_grad()
    def _sample(self, unit: Unit, draw: Draw) -> Synthetic | None:
        if self.inversion.source == "bank" or not self.transfer_set.synthetic_per_batch:
            return None
        return self.inversion.sample(self.transfer_set.synthetic_per_batch, self.teacher, unit, draw)

    def _loss(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor, condensed: Tensor) -> Tensor:
        if self.transfer_set.mix != "two_term" or bool(condensed.all()):
            return self.distillation(student, teacher, labels)
        first, second = (
            self.distillation(student.select(rows), teacher.select(rows), labels[rows])
            for rows in (condensed, ~condensed)
        )
        return first + second
