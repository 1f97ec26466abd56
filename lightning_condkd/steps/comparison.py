"""Outputs of teacher and student on the same views of a batch, and the student's loss."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_condkd.augment import Augment
from lightning_condkd.distillation import DistillationLoss, LossContext
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw
from lightning_condkd.types import LossTerms, NetworkOutput


class Compared(NamedTuple):
    """Outputs of both networks on a batch, and what else the loss needs.

    Args:
        student: output of the student, with its graph.
        teacher: output of the teacher.
        labels: classes ``(N,)`` int64, the teacher's prediction where none are known; or probabilities ``(N, K)``.
        context: facts of the step for the loss.
    """

    student: NetworkOutput
    teacher: NetworkOutput
    labels: Tensor
    context: LossContext

    def terms(self, loss: DistillationLoss) -> LossTerms:
        """Return the terms of a loss on the batch.

        Args:
            loss: the loss.
        """
        return loss.terms(self.student, self.teacher, self.labels, self.context)

    def select(self, rows: Tensor) -> Compared:
        """Return the same for a part of the batch.

        Args:
            rows: index or boolean mask over the batch, ``(N,)``.
        """
        student, teacher = self.student.select(rows), self.teacher.select(rows)
        return Compared(student, teacher, self.labels[rows], self.context.select(rows))


class Comparison(NamedTuple):
    """Both networks on the views of a batch that a loss needs.

    Args:
        teacher: the frozen teacher.
        student: the student, in train mode.
        distillation: loss of the student.
        augment: view of the images, the same for both networks.
    """

    teacher: Observer
    student: Observer
    distillation: DistillationLoss
    augment: Augment

    def __call__(
        self, images: Tensor, labels: Tensor, draw: Draw, progress: float = 1.0, slots: Tensor | None = None
    ) -> Compared:
        """Return the outputs of both networks.

        Args:
            images: this rank's rows, ``(N, C, H, W)``, pixels in the units of [0, 1].
            labels: their classes, ``(N,)`` int64, -1 where unknown, or probabilities ``(N, K)``.
            draw: randomness of the step.
            progress: share of the student's steps in the run that are done, in [0, 1].
            slots: number of each image among all of the run, ``(N,)`` int64; ``None`` if unknown.
        """
        loss = self.distillation
        student, teacher = self._outputs(self.augment.view(images, draw, "distillation view"))
        context = LossContext(
            progress,
            slots if loss.needs_slots else None,
            None if loss.second_view is None else self._outputs(loss.second_view.view(images, draw, "second view")),
            self.student.head() if loss.needs_student_head else None,
            draw,
        )
        if labels.dim() == 1:
            labels = torch.where(labels < 0, teacher.logits.detach().argmax(1), labels)
        return Compared(student, teacher, labels, context)

    def _outputs(self, images: Tensor) -> tuple[NetworkOutput, NetworkOutput]:
        loss = self.distillation
        with nullcontext() if loss.needs_teacher_graph else torch.no_grad():
            seen = images.detach().requires_grad_() if loss.needs_teacher_graph else images
            teacher = self.teacher(seen, embedding=loss.needs_embedding, maps=loss.teacher_maps)
        student = self.student(images, embedding=loss.needs_embedding, maps=loss.student_maps)
        return student, teacher
