"""Comparison of the class activation maps of both networks."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.distillation.parts.head_input import check_width, last_maps
from lightning_condkd.distillation.parts.map_pairs import map_shapes
from lightning_condkd.functional.activation_maps import class_activation_maps
from lightning_condkd.functional.feature_maps import map_error, pool_to
from lightning_condkd.models.heads import ClassifierHead
from lightning_condkd.types import NetworkOutput


class CATKD(DistillationLoss):
    """Squared error of the class activation maps, average-pooled to a few positions; labels are not used.

    A class's map is the final layer's weights for it, applied to the last map at every position. Gradients reach the
    student's final layer too. The official code trains students whose final layer has no bias; here the bias takes no
    part.

    The method without labels (CAT) is this loss alone. With labels (CAT-KD) the official code adds the cross-entropy,
    weight 1, and gives this loss weight 15 (ResNet-32x4 to ResNet-8x4), 12 (WRN-40-2 to WRN-16-2) or 0.7 (ResNet-56 to
    20); 15 with ``normalize`` for VGG-13 to MobileNetV2; 0.5 with ``resolution`` 4 for ResNet-34 to 18 on ImageNet.

    Args:
        teacher_map: name of the teacher's module whose output its final layer reads, averaged over space;
            ``None`` for the last of its :func:`~lightning_condkd.models.stages.stage_names`.
        student_map: name of the student's module, likewise; ``None`` for the same name, or for its own last stage if
            the teacher's is not named.
        resolution: height and width of the pooled maps; 2 in the official code for CIFAR-100.
        normalize: whether each class's pooled map is divided by its length.
        rectify: whether ReLU is applied to the last maps, which changes nothing in a map after its ReLU; ``False`` for
            networks whose last activation is another.

    Raises:
        ValueError: if the resolution is below 1; at setup, if a map is smaller than that or has not one channel for
            each input of the final layer; in the first step, if a final layer reads another map.

    Example:
        >>> import torch
        >>> from lightning_condkd.distillation import LossContext
        >>> from lightning_condkd.models import CifarResNet, Observer
        >>> teacher, student = Observer(CifarResNet(8, width=8)).freeze(), Observer(CifarResNet(8, width=4))
        >>> loss = CATKD("layer3").build(teacher, student, image_shape=(3, 32, 32))
        >>> images, asked = torch.rand(2, 3, 32, 32), {"embedding": True, "maps": ["layer3"]}
        >>> context = LossContext(student_head=student.head())
        >>> loss(student(images, **asked), teacher(images, **asked), context=context).shape
        torch.Size([])

    References:
        Guo et al.: "Class Attention Transfer Based Knowledge Distillation", arXiv 2304.12777.
    """

    compared_stages = slice(-1, None)
    needs_embedding = True  # to check that the final layers read the maps
    needs_teacher_head = True
    needs_student_head = True

    def __init__(
        self,
        teacher_map: str | None = None,
        student_map: str | None = None,
        *,
        resolution: int = 2,
        normalize: bool = False,
        rectify: bool = True,
    ) -> None:
        super().__init__()
        if resolution < 1:
            raise ValueError(f"resolution: expected at least 1, got {resolution}; 2 is published for CIFAR-100")
        self.name_map(teacher_map, student_map)
        self.resolution, self.normalize, self.rectify = resolution, normalize, rectify
        self._checked = False

    def make(self, spec: LossSpec) -> None:
        """Check the shapes.

        Args:
            spec: shapes of the task.
        """
        name = type(self).__name__
        shapes = map_shapes(name, spec)
        check_width(name, f"student_map={self.student_maps[0]!r}", spec.student)
        check_width(name, f"teacher_map={self.teacher_maps[0]!r}", spec.teacher)
        for who, (_, *size) in zip(("student", "teacher"), shapes[0], strict=True):
            if min(size) < self.resolution:
                raise ValueError(
                    f"CATKD: expected a {who}_map of at least resolution={self.resolution} rows and columns, got "
                    f"{tuple(size)}: lower the resolution"
                )

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the mean over classes, positions and images, see :class:`DistillationLoss`."""
        ours, theirs = last_maps(type(self).__name__, student, teacher, rectify=self.rectify, check=not self._checked)
        self._checked = True
        return map_error(
            self._pooled(ours, cast(ClassifierHead, self.context.student_head)), self._pooled(theirs, self.teacher_head)
        )

    def _pooled(self, maps: Tensor, head: ClassifierHead) -> Tensor:
        pooled = pool_to(class_activation_maps(maps, head.weight), (self.resolution, self.resolution)).flatten(2)
        return F.normalize(pooled, dim=2) if self.normalize else pooled

    def extra_repr(self) -> str:
        """Return the modules and settings for ``print``."""
        pair = f"teacher_maps={self.teacher_maps}, student_maps={self.student_maps}"
        return f"{pair}, resolution={self.resolution}, normalize={self.normalize}, rectify={self.rectify}"
