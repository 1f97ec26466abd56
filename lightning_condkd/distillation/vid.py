"""Likelihood of the teacher's feature maps under distributions predicted from the student's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.distillation.parts.map_pairs import map_shapes
from lightning_condkd.distillation.parts.regressors import VariationalRegressor
from lightning_condkd.functional.feature_maps import gaussian_nll, pool_to_smaller
from lightning_condkd.types import NetworkOutput


class VID(DistillationLoss):
    """Negative log-likelihood of the teacher's maps under normal distributions given the student's, summed over stages.

    A regressor of 1x1 convolutions predicts the mean; each channel has a variance of its own. Both are trained with the
    student; labels are not used. The larger map of a pair is average-pooled to the size of the smaller. The benchmark
    of RepDistiller adds the cross-entropy with labels, weight 1, gives this loss weight 1 and compares all stages.

    Args:
        teacher_maps: names of the teacher's modules; ``None`` for its
            :func:`~lightning_condkd.models.stages.stage_names`.
        student_maps: names of the student's modules in the same order; ``None`` for the same names, or
            for its own stages if the teacher's are not named.
        initial_variance: variance of every channel at the start, 5 in the official code.
        eps: smallest variance, 1e-5 in the official code.

    Raises:
        ValueError: if the modules are not named in pairs, or ``eps`` is not positive or not below the initial variance;
            at setup, if a module returns no map.

    Example:
        >>> from lightning_condkd.models import CifarResNet, Observer
        >>> teacher, student = Observer(CifarResNet(8, width=8)).freeze(), Observer(CifarResNet(8, width=4))
        >>> loss = VID(["layer2", "layer3"]).build(teacher, student, image_shape=(3, 32, 32))
        >>> images, maps = torch.rand(2, 3, 32, 32), loss.teacher_maps
        >>> loss(student(images, maps=maps), teacher(images, maps=maps)).shape
        torch.Size([])

    References:
        Ahn et al.: "Variational Information Distillation for Knowledge Transfer", arXiv 1904.05835.
    """

    def __init__(
        self,
        teacher_maps: Sequence[str] | None = None,
        student_maps: Sequence[str] | None = None,
        *,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if not 0 < eps < initial_variance:
            raise ValueError(
                f"expected 0 < eps < initial_variance, got eps={eps} and initial_variance={initial_variance}"
            )
        self.name_maps(teacher_maps, student_maps)
        self.initial_variance = initial_variance
        self.eps = eps

    def make(self, spec: LossSpec) -> None:
        """Create the regressors.

        Args:
            spec: shapes of the task.
        """
        self.regressors = nn.ModuleList(
            VariationalRegressor(student[0], teacher[0], self.initial_variance, self.eps)
            for student, teacher in map_shapes(type(self).__name__, spec)
        )

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the sum over the stages of means over all entries, see :class:`DistillationLoss`."""
        stages = zip(self.regressors, student.maps, teacher.maps, strict=True)
        return torch.stack([_stage(*stage) for stage in stages]).sum()

    def extra_repr(self) -> str:
        """Return the modules and settings for ``print``."""
        pairs = f"teacher_maps={self.teacher_maps}, student_maps={self.student_maps}"
        return f"{pairs}, initial_variance={self.initial_variance}, eps={self.eps}"


def _stage(regressor: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = pool_to_smaller(student, teacher)
    mean, variance = regressor(student)
    return gaussian_nll(mean, variance, teacher)
