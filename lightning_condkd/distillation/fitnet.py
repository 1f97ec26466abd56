"""Regression of one of the teacher's feature maps."""

from __future__ import annotations

from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.distillation.parts.map_pairs import map_shapes
from lightning_condkd.distillation.parts.regressors import hint_regressor
from lightning_condkd.functional.feature_maps import map_error
from lightning_condkd.types import NetworkOutput


class FitNet(DistillationLoss):
    """Squared error of the teacher's map as a regressor predicts it from the student's map, in one stage.

    The regressor is a convolution, BatchNorm and ReLU and is trained with the student; labels are not used. The
    benchmark of RepDistiller adds the cross-entropy with labels, weight 1, gives this loss weight 100 and compares
    the second stage (``layer2`` in :class:`~lightning_condkd.models.CifarResNet`, ``block2`` in
    :class:`~lightning_condkd.models.WideResNet`). The paper instead trains in two stages, the hint first.

    The regressor ends in a ReLU, so it can predict a map after the teacher's ReLU, and only the positive part of one
    before it.

    Args:
        teacher_map: name of the teacher's module;
            ``None`` for the second of its :func:`~lightning_condkd.models.stages.stage_names`.
        student_map: name of the student's module; ``None`` for the same name, or for its own second stage if the
            teacher's is not named.

    Raises:
        ValueError: at setup, if a module returns no map, or the student's is smaller and not half the size.

    Example:
        >>> import torch
        >>> from lightning_condkd.models import CifarResNet, Observer
        >>> teacher, student = Observer(CifarResNet(8, width=8)).freeze(), Observer(CifarResNet(8, width=4))
        >>> loss = FitNet("layer2").build(teacher, student, image_shape=(3, 32, 32))
        >>> images = torch.rand(2, 3, 32, 32)
        >>> loss(student(images, maps=["layer2"]), teacher(images, maps=["layer2"])).shape
        torch.Size([])
        >>> sum(parameter.numel() for group in loss.parameter_groups() for parameter in group["params"])
        176

    References:
        Romero et al.: "FitNets: Hints for Thin Deep Nets", arXiv 1412.6550.
    """

    compared_stages = slice(1, 2)

    def __init__(self, teacher_map: str | None = None, student_map: str | None = None) -> None:
        super().__init__()
        self.name_map(teacher_map, student_map)

    def make(self, spec: LossSpec) -> None:
        """Create the regressor.

        Args:
            spec: shapes of the task.
        """
        ((student, teacher),) = map_shapes(type(self).__name__, spec)
        self.regressor = hint_regressor(student, teacher)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the mean over all entries, see :class:`DistillationLoss`."""
        return map_error(self.regressor(student.maps[0]), teacher.maps[0])

    def extra_repr(self) -> str:
        """Return the modules for ``print``."""
        return f"teacher_maps={self.teacher_maps}, student_maps={self.student_maps}"
