"""Regression of the teacher's last map, after which the teacher's final layer classifies for the student."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.distillation.parts.head_input import check_read
from lightning_condkd.distillation.parts.map_pairs import map_shapes
from lightning_condkd.functional.feature_maps import map_error, pool_to
from lightning_condkd.models import Observer
from lightning_condkd.models.heads import head_widths
from lightning_condkd.models.projected import ProjectedNetwork, Projector, head_input
from lightning_condkd.types import NetworkOutput


class SimKD(DistillationLoss):
    """Squared error of the teacher's last map as a projector predicts it; the teacher's final layer then classifies.

    The projector is trained with the student, and is part of the network that predicts:
    :class:`~lightning_condkd.models.ProjectedNetwork`, see :meth:`predictor`. Labels are not used, the student's own
    final layer is not trained. The method is published with this loss alone.

    The larger of the two maps is average-pooled to the size of the smaller. ReLU is applied to the teacher's map, which
    changes nothing if it is one after its ReLU as published.

    Args:
        teacher_map: name of the teacher's module whose output its final layer reads, averaged over space or whole;
            ``None`` for the last of its :func:`~lightning_condkd.models.stages.stage_names`.
        student_map: name of the student's module; ``None`` for the same name, or for its own last stage if the
            teacher's is not named.
        factor: the teacher's map has this many times the channels of the projector's inner maps; 2 in the official
            code.

    Raises:
        ValueError: if the factor is below 1; at setup, if a module returns no map, the teacher's final layer does not
            read a map of that shape, or the factor exceeds its channels; in the first step, if it reads another map.

    Example:
        >>> import torch
        >>> from lightning_condkd.models import CifarResNet
        >>> teacher, student = Observer(CifarResNet(8, width=8)).freeze(), Observer(CifarResNet(8, width=4))
        >>> loss = SimKD("layer3").build(teacher, student, image_shape=(3, 32, 32))
        >>> images = torch.rand(2, 3, 32, 32)
        >>> loss(student(images, maps=["layer3"]), teacher(images, maps=["layer3"])).shape
        torch.Size([])
        >>> loss.predictor(student).eval()(images).logits.shape
        torch.Size([2, 10])

    References:
        Chen et al.: "Knowledge Distillation with the Reused Teacher Classifier", arXiv 2203.14001.
    """

    compared_stages = slice(-1, None)
    needs_teacher_head = True

    def __init__(self, teacher_map: str | None = None, student_map: str | None = None, *, factor: int = 2) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"factor: expected at least 1, got {factor}; 2 is published")
        self.name_map(teacher_map, student_map)
        self.factor = factor
        self._checked = False

    def make(self, spec: LossSpec) -> None:
        """Create the projector.

        Args:
            spec: shapes of the task.
        """
        ((student, teacher),) = map_shapes(type(self).__name__, spec)
        self.size = min(student[1], teacher[1]), min(student[2], teacher[2])
        self._check_head(teacher)
        self.projector = Projector(student[0], teacher[0], self.factor)

    def _check_head(self, teacher: tuple[int, int, int]) -> None:
        channels, height, width = teacher
        wide = head_widths(self.teacher_head.layer)[0]
        if wide not in (channels, channels * height * width):
            raise ValueError(
                f"SimKD: expected teacher_map to be the map that the teacher's final layer reads, {wide} wide, got "
                f"{teacher} (channels, height, width) from {self.teacher_maps[0]!r}: name the last stage"
            )
        if wide != channels and self.size != (height, width):
            raise ValueError(
                f"SimKD: the teacher's final layer reads its whole map {teacher} (channels, height, width), expected a "
                f"student's map of at least that height and width, {self.student_maps[0]!r} is smaller: name a "
                "student_map of an earlier stage"
            )

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the mean over all entries, see :class:`DistillationLoss`."""
        target = F.relu(teacher.maps[0])
        if not self._checked:
            logits = self.teacher_head(head_input(target, self.teacher_head.layer))
            check_read(type(self).__name__, f"teacher_map={self.teacher_maps[0]!r}", logits, teacher.logits)
            self._checked = True
        projected = self.projector(pool_to(student.maps[0], self.size))
        return map_error(projected, pool_to(target, self.size))

    def predictor(self, student: Observer) -> Observer:
        """Return the network that predicts after training; it shares all weights with student and loss.

        Args:
            student: the student.

        Raises:
            RuntimeError: if the loss was not built.
        """
        if self.spec is None:
            raise RuntimeError("SimKD: call build(teacher, student, image_shape) before predictor(student)")
        layer, name = self.teacher_head.layer, self.student_maps[0]
        network = ProjectedNetwork(student.network, name, self.projector, layer, size=self.size)
        mean, std = (None if one is None else one.tolist() for one in (student.mean, student.std))
        return Observer(network, mean, std, embedding="head.layer")

    def extra_repr(self) -> str:
        """Return the modules and the factor for ``print``."""
        pair = f"teacher_maps={self.teacher_maps}, student_maps={self.student_maps}"
        return f"{pair}, factor={self.factor}"
