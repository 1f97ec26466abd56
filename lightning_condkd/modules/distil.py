"""The student's side of a step: draw, view, compare with the teacher."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from lightning_condkd.augment import Augment
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.functional.kd import agreement
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw
from lightning_condkd.types import NetworkOutput


class DistillationStep(NamedTuple):
    """The forward pass of a student update.

    Args:
        teacher: the frozen teacher.
        student: the student, in train mode.
        distillation: what the student minimises.
        augment: view of the images, the same for both networks.
        transfer_set: where the images come from.
    """

    teacher: Observer
    student: Observer
    distillation: DistillationLoss
    augment: Augment
    transfer_set: TransferSet

    def __call__(self, draw: Draw, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss with its graph, and what is worth logging.

        Args:
            draw: randomness of the step.
            device: where the networks are.
        """
        batch = self.transfer_set.draw(draw, device)
        images = self.augment.view(batch.images, draw, "distillation view")
        wants = self.distillation.needs_embedding
        with torch.no_grad():
            teacher = self.teacher(images, embedding=wants)
        student = self.student(images, embedding=wants)
        rows = batch.from_condensed
        loss = self._loss(student, teacher, batch.labels, rows)
        share = agreement(student.logits.detach(), teacher.logits)
        return loss, {"loss": loss, "agreement": share, "condensed_share": rows.float().mean()}

    def _loss(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor, condensed: Tensor) -> Tensor:
        if self.transfer_set.mix != "two_term" or bool(condensed.all()):
            return cast(Tensor, self.distillation(student, teacher, labels))
        first, second = (
            self.distillation(student.select(rows), teacher.select(rows), labels[rows])
            for rows in (condensed, ~condensed)
        )
        return cast(Tensor, first + second)
