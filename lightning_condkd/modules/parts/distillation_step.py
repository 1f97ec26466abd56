"""The student's step: draw, view, compare with the teacher."""

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
from lightning_condkd.types import NetworkOutput, Synthetic


class Distilled(NamedTuple):
    """What one student step computed.

    Args:
        loss: scalar with its graph.
        observed: what is worth logging.
        synthetic: the images rendered for this step; ``None`` if they came from the bank.
    """

    loss: Tensor
    observed: dict[str, Tensor]
    synthetic: Synthetic | None


class DistillationStep(NamedTuple):
    """The forward pass of a student update.

    Args:
        teacher: the frozen teacher.
        student: the student, in train mode.
        distillation: what the student minimises.
        augment: view of the images, the same for both networks.
        inversion: the method, built; it renders the synthetic images if it stores none.
        transfer_set: where the images come from.
    """

    teacher: Observer
    student: Observer
    distillation: DistillationLoss
    augment: Augment
    inversion: Inversion
    transfer_set: TransferSet

    def __call__(self, unit: Unit, draw: Draw, device: torch.device) -> Distilled:
        """Return the loss with its graph, and what came with it.

        Args:
            unit: the current unit.
            draw: randomness of the step.
            device: where the networks are.
        """
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
