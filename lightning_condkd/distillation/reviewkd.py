"""Comparison of all stages after the student's deeper maps are fused into its earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.distillation.parts.fusion import FusionChain
from lightning_condkd.distillation.parts.map_pairs import MapShape, map_shapes
from lightning_condkd.functional.feature_maps import hierarchical_context
from lightning_condkd.types import NetworkOutput


class ReviewKD(DistillationLoss):
    """Hierarchical context loss between the teacher's stages and the student's, in which deeper stages are fused.

    The embedding of both networks is the last stage, a map of one pixel. The fusion blocks are trained with the
    student; labels are not used. The weight rises from 0 to 1 over the first part of the run. The official code adds
    the cross-entropy with labels, weight 1, and gives this loss weight 5 (WRN-40-2 to WRN-16-2 and WRN-40-1,
    ResNet-32x4 to ResNet-8x4), 1 (ResNet-110 to 32) or 0.6 (ResNet-56 to 20).

    The official code compares the teacher's stages before their last ReLU. Here a map is what the named module returns:
    a stage of :class:`~lightning_condkd.models.CifarResNet` or of torchvision's ResNets returns it after the ReLU, one
    of :class:`~lightning_condkd.models.WideResNet` or :class:`~lightning_condkd.models.SmallImageVGG` before.

    Args:
        teacher_maps: names of the teacher's stages, the first first; ``None`` for its
            :func:`~lightning_condkd.models.stages.stage_names`.
        student_maps: names of the student's stages in the same order; ``None`` for the same names, or
            for its own stages if the teacher's are not named.
        warmup: share of the run in which the weight rises, in [0, 1]; 20 of 240 epochs in the official code, where it
            rises once an epoch, here at every step.
        max_width: upper limit of the width of the fused map, which is else that of the student's embedding; 512 in the
            official code.

    Raises:
        ValueError: if the stages are not named in pairs, or a number is out of range; at setup, if a stage returns no
            map.

    Example:
        >>> import torch
        >>> from lightning_condkd.models import CifarResNet, Observer
        >>> teacher, student = Observer(CifarResNet(8, width=8)).freeze(), Observer(CifarResNet(8, width=4))
        >>> loss = ReviewKD(["layer1", "layer2", "layer3"]).build(teacher, student, image_shape=(3, 32, 32))
        >>> images, asked = torch.rand(2, 3, 32, 32), {"embedding": True, "maps": loss.teacher_maps}
        >>> loss(student(images, **asked), teacher(images, **asked)).shape
        torch.Size([])

    References:
        Chen et al.: "Distilling Knowledge via Knowledge Review", arXiv 2104.09044.
    """

    needs_embedding = True

    def __init__(
        self,
        teacher_maps: Sequence[str] | None = None,
        student_maps: Sequence[str] | None = None,
        *,
        warmup: float = 20 / 240,
        max_width: int = 512,
    ) -> None:
        super().__init__()
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup: expected a share of the run in [0, 1], got {warmup}; 20 of 240 epochs are 0.083")
        if max_width < 1:
            raise ValueError(f"max_width: expected at least 1 channel, got {max_width}")
        self.name_maps(teacher_maps, student_maps)
        self.needs_progress = warmup > 0
        self.warmup = warmup
        self.max_width = max_width

    def make(self, spec: LossSpec) -> None:
        """Create the fusion blocks.

        Args:
            spec: shapes of the task.
        """
        stages = map_shapes(type(self).__name__, spec)
        embeddings: tuple[MapShape, MapShape] = (
            (spec.student.embedding_size, 1, 1),
            (spec.teacher.embedding_size, 1, 1),
        )
        self.fusion = FusionChain([*stages, embeddings], self.max_width)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the sum over the stages, times the warm-up, see :class:`DistillationLoss`."""
        fused = self.fusion(_stages(student))
        rise = min(self.context.progress / self.warmup, 1.0) if self.warmup else 1.0
        return rise * hierarchical_context(fused, _stages(teacher))

    def extra_repr(self) -> str:
        """Return the stages and settings for ``print``."""
        pairs = f"teacher_maps={self.teacher_maps}, student_maps={self.student_maps}"
        return f"{pairs}, warmup={self.warmup}, max_width={self.max_width}"


def _stages(output: NetworkOutput) -> list[Tensor]:
    return [*output.maps, cast(Tensor, output.embedding)[:, :, None, None]]
