"""Outputs of teacher and student on the same views of a batch, and the student's loss."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.augment import Augment, Mixing
from lightning_condkd.distillation import DistillationLoss, LossContext
from lightning_condkd.distributed import gather_rows
from lightning_condkd.functional.divergence import agreement
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

    def agreement(self, loss: DistillationLoss) -> dict[str, Tensor]:
        """Return the share of images for which both networks predict the same class, for the logs.

        There is none if the student predicts by another network than the one that was compared.

        Args:
            loss: loss of the student.
        """
        if loss.changes_prediction():
            return {}
        return {"agreement": agreement(self.student.logits.detach(), self.teacher.logits.detach())}

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
        mixing: mixture of the views of a batch with each other, the same for both networks; ``None`` for none.
        batch_statistics: whether the teacher's BatchNorm layers normalize by the statistics of the global batch.
    """

    teacher: Observer
    student: Observer
    distillation: DistillationLoss
    augment: Augment
    mixing: Mixing | None = None
    batch_statistics: bool = False

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
        student, teacher = self._outputs(self._mixed(self.augment.view(images, draw, "distillation view"), draw), draw)
        second = None
        if loss.second_view is not None:
            second = self._outputs(self._mixed(loss.second_view.view(images, draw, "second view"), draw), draw)
        head = self.student.head() if loss.needs_student_head else None
        context = LossContext(progress, slots if loss.needs_slots else None, second, head, draw)
        return Compared(student, teacher, self._labels(labels, teacher, images.shape[2:], draw), context)

    def _mixed(self, images: Tensor, draw: Draw) -> Tensor:
        return images if self.mixing is None else self.mixing.mix(images, draw, "mixing")

    def _labels(self, labels: Tensor, teacher: NetworkOutput, size: torch.Size, draw: Draw) -> Tensor:
        """Return the labels of the views; those that are not known are the teacher's predictions."""
        predicted = teacher.logits.detach().argmax(1)
        if self.mixing is None:
            return labels if labels.dim() == 2 else torch.where(labels < 0, predicted, labels)
        if not self.distillation.accepts_soft_labels:
            return predicted
        classes, height_width = teacher.logits.shape[1], (size[0], size[1])
        if labels.dim() == 2:
            return self.mixing.mix_labels(labels, classes, height_width, draw, "mixing")
        # Images without a label get a class of their own, so that mixtures with them are known.
        given = torch.where(labels < 0, classes, labels)
        mixed = self.mixing.mix_labels(given, classes + 1, height_width, draw, "mixing")
        unknown = mixed[:, classes:] > 0
        return torch.where(unknown, F.one_hot(predicted, classes).to(mixed), mixed[:, :classes])

    def _outputs(self, images: Tensor, draw: Draw) -> tuple[NetworkOutput, NetworkOutput]:
        loss = self.distillation
        with nullcontext() if loss.needs_teacher_graph else torch.no_grad():
            seen = images.detach().requires_grad_() if loss.needs_teacher_graph else images
            teacher = self._teacher_output(seen, draw)
        student = self.student(images, embedding=loss.needs_embedding, maps=loss.student_maps)
        return student, teacher

    def _teacher_output(self, images: Tensor, draw: Draw) -> NetworkOutput:
        embedding, maps = self.distillation.needs_embedding, self.distillation.teacher_maps
        if not self.batch_statistics:
            return self.teacher(images, embedding=embedding, maps=maps)  # type: ignore[no-any-return]
        check_statistics(self.distillation)
        whole = self.teacher(gather_rows(images), embedding=embedding, maps=maps, batch_statistics=True)
        return whole.select(torch.arange(len(whole.logits), device="cpu")[draw.rows])  # type: ignore[no-any-return]


def check_statistics(loss: DistillationLoss) -> None:
    """Check that a loss can be computed from a teacher that normalizes by batch statistics.

    Args:
        loss: loss of the student.

    Raises:
        ValueError: if it needs gradients through the teacher: only outputs are passed on from the global batch.
    """
    if loss.needs_teacher_graph:
        raise ValueError(
            f"{type(loss).__name__} needs gradients through the teacher, which this inversion evaluates with batch "
            "statistics of all ranks' images, without a graph: take another distillation loss, such as KLDistillation"
        )
