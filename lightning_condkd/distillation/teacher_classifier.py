"""Training of the student's body through the teacher's final layer: the first stage of GenDD."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.models import Observer
from lightning_condkd.precision import at_least_float32
from lightning_condkd.types import NetworkOutput


class TeacherClassifier(DistillationLoss):
    """Cross-entropy of the teacher's frozen final layer on a linear map of the student's embedding.

    It is the optional first stage of :class:`~lightning_condkd.distillation.GenDD`, which the official code runs where
    there are labels: a run of its own (on CIFAR-100 50 epochs of AdamW, 3e-3, weight decay 0.05, batch 64), whose last
    student begins the second stage. The map is not used after it. The student's own final layer is not trained, so that
    of the student's predictions only ``teacher_classifier`` counts.

    Example:
        >>> from lightning_condkd.models import DigitsNet
        >>> teacher, student = Observer(DigitsNet(width=8)).freeze(), Observer(DigitsNet(width=4))
        >>> loss = TeacherClassifier().build(teacher, student, image_shape=(1, 8, 8))
        >>> images, labels = torch.rand(2, 1, 8, 8), torch.tensor([3, 7])
        >>> loss(student(images, embedding=True), teacher(images, embedding=True), labels).shape
        torch.Size([])

    References:
        Cui et al.: "Generative Distribution Distillation", arXiv 2507.14503; its code.
    """

    needs_embedding = True
    needs_labels = True
    accepts_soft_labels = True
    needs_teacher_head = True

    def make(self, spec: LossSpec) -> None:
        """Create the map, none between equal widths, see :class:`DistillationLoss`."""
        own, wanted = spec.student.embedding_size, spec.teacher.embedding_size
        self.projection = nn.Identity() if own == wanted else nn.Linear(own, wanted)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the batch mean, see :class:`DistillationLoss`."""
        logits, known = self._logits(student), cast(Tensor, labels)
        return F.cross_entropy(logits, known if known.dim() == 1 else known.to(logits))

    def _logits(self, student: NetworkOutput) -> Tensor:
        return at_least_float32(self.teacher_head(self.projection(student.embedding)))

    def other_predictors(self, student: Observer) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Return the prediction ``teacher_classifier``, see :class:`DistillationLoss`."""

        @torch.no_grad()
        def predict(images: Tensor) -> Tensor:
            return self._logits(student(images, embedding=True))

        return {"teacher_classifier": predict}
