"""Attention transfer, alone and combined with the divergence of predictions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.distillation.parts.map_pairs import check_same_resolution, map_shapes
from lightning_condkd.functional.attention import attention_transfer
from lightning_condkd.functional.divergence import Reduction, check_reduction, negative_divergence
from lightning_condkd.functional.feature_maps import pool_to_smaller
from lightning_condkd.types import NetworkOutput


class AttentionDistillation(DistillationLoss):
    """Divergence at temperature 1 and difference of the attention maps of blocks, the loss of ZSKT.

    Labels are not used. The names are ``block1``, ``block2`` and ``block3`` in
    :class:`~lightning_condkd.models.WideResNet`, as in the official code; ``layer1``, ``layer2`` and ``layer3`` in
    :class:`~lightning_condkd.models.CifarResNet`.

    Args:
        teacher_maps: names of the teacher's blocks; ``None`` for its
            :func:`~lightning_condkd.models.stages.stage_names`.
        student_maps: names of the student's blocks, in the same order and with maps of the same heights and widths;
            ``None`` for the same names, or for its own stages if the teacher's are not named.
        attention_weight: weight of :func:`~lightning_condkd.functional.attention.attention_transfer`.
        reduction: reduction of the divergence; ``elementwise`` also divides by the number of classes, as in the
            official code, for which the weight is tuned; ``batchmean`` does not.

    Raises:
        ValueError: if an empty list is given, the numbers of blocks differ, or the reduction is unknown; at setup, if
            the blocks differ in number or resolution.

    Example:
        >>> import torch
        >>> loss = AttentionDistillation(["layer1", "layer2"])
        >>> loss.student_maps
        ('layer1', 'layer2')
        >>> output = NetworkOutput(torch.zeros(2, 3), maps=(torch.rand(2, 4, 8, 8), torch.rand(2, 8, 4, 4)))
        >>> loss(output, output)
        tensor(0.)

    References:
        Micaelli and Storkey: "Zero-shot Knowledge Transfer via Adversarial Belief Matching", arXiv 1905.09768.
    """

    def __init__(
        self,
        teacher_maps: Sequence[str] | None = None,
        student_maps: Sequence[str] | None = None,
        *,
        attention_weight: float = 250.0,
        reduction: Reduction = "elementwise",
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.name_maps(teacher_maps, student_maps)
        if not attention_weight:
            self.teacher_maps = self.student_maps = ()
        self.attention_weight = attention_weight
        self.reduction: Reduction = reduction

    def check_shapes(self, spec: LossSpec) -> None:
        """Check that the blocks have maps of the same heights and widths in pairs."""
        check_same_resolution(type(self).__name__, spec)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the batch mean, see :class:`DistillationLoss`."""
        divergence = -negative_divergence(teacher.logits, student.logits, self.reduction)
        if not self.attention_weight:
            return divergence
        return divergence + self.attention_weight * attention_transfer(student.maps, teacher.maps)

    def extra_repr(self) -> str:
        """Return the blocks and the weight for ``print``."""
        pairs = f"teacher_maps={self.teacher_maps}, student_maps={self.student_maps}, " if self.teacher_maps else ""
        return f"{pairs}attention_weight={self.attention_weight}, reduction={self.reduction}"


class AttentionTransfer(DistillationLoss):
    """Difference of the attention maps of blocks alone; labels are not used.

    It is :func:`~lightning_condkd.functional.attention.attention_transfer`; the larger map of a pair is average-pooled
    to the size of the smaller first. The benchmark of RepDistiller adds the cross-entropy with labels, weight 1, gives
    this loss weight 1000 and compares all stages. For the loss of ZSKT, see :class:`AttentionDistillation`.

    Args:
        teacher_maps: names of the teacher's blocks; ``None`` for its
            :func:`~lightning_condkd.models.stages.stage_names`.
        student_maps: names of the student's blocks in the same order; ``None`` for the same names, or for its own
            stages if the teacher's are not named.

    Raises:
        ValueError: if the blocks are not named in pairs; at setup, if one returns no map.

    Example:
        >>> import torch
        >>> from lightning_condkd.models import CifarResNet, Observer
        >>> teacher, student = Observer(CifarResNet(8, width=8)).freeze(), Observer(CifarResNet(8, width=4))
        >>> loss = AttentionTransfer(["layer1", "layer2"]).build(teacher, student, image_shape=(3, 32, 32))
        >>> images, maps = torch.rand(2, 3, 32, 32), loss.teacher_maps
        >>> loss(student(images, maps=maps), teacher(images, maps=maps)).shape
        torch.Size([])

    References:
        Zagoruyko and Komodakis: "Paying More Attention to Attention", arXiv 1612.03928.
    """

    def __init__(self, teacher_maps: Sequence[str] | None = None, student_maps: Sequence[str] | None = None) -> None:
        super().__init__()
        self.name_maps(teacher_maps, student_maps)

    def check_shapes(self, spec: LossSpec) -> None:
        """Check that the blocks return maps.

        Args:
            spec: shapes of the task.
        """
        map_shapes(type(self).__name__, spec)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the sum over the blocks of means over images and positions, see :class:`DistillationLoss`."""
        pairs = [pool_to_smaller(s, t) for s, t in zip(student.maps, teacher.maps, strict=True)]
        return attention_transfer([s for s, _ in pairs], [t for _, t in pairs])

    def extra_repr(self) -> str:
        """Return the blocks for ``print``."""
        return f"teacher_maps={self.teacher_maps}, student_maps={self.student_maps}"
