"""Losses that compare the penultimate embeddings of student and teacher."""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import orthogonal

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.functional.embeddings import norm_direction_distance, whiten
from lightning_condkd.precision import at_least_float32, at_least_float32_dtype
from lightning_condkd.randomness import send
from lightning_condkd.types import NetworkOutput

Normalization = Literal["layer_norm", "whitening"]


class NormDirection(DistillationLoss):
    """Norm and direction of the student's embedding, the ND loss of KD++.

    It draws the embedding into the direction of the teacher's mean embedding of the class and makes it as long as the
    teacher's, see :func:`~lightning_condkd.functional.embeddings.norm_direction_distance`. The class is that of the
    image, or the teacher's prediction where it is unknown.

    If the embeddings differ in width, a trained map brings the student's to the teacher's width: BatchNorm, dropout and
    a linear layer, as in the official code. It is used in this loss only; the student predicts without it.

    Published on CIFAR-100 with cross-entropy of weight 1 and :class:`KLDistillation` at temperature 4, in this order:
    1, 1 and 2 for ResNet-56 to ResNet-20; 1, 3.5 and 2 for ResNet-32x4 to ResNet-8x4; 1, 1 and 1.5 for WRN-40-2 to
    WRN-40-1; 1, 3 and 0.5 for ResNet-50 to MobileNetV2. On ImageNet 1, 2.5 and 1 for ResNet-34 to ResNet-18. The weight
    of the divergence rises in the first 20 of 240 epochs. The class means are those of the training images.

    Args:
        dropout: share of the student's features that are dropped before the linear layer, in [0, 1) (official code
            0.5); without effect where the widths are equal.

    Raises:
        ValueError: if the dropout is outside [0, 1).

    Example:
        >>> from lightning_condkd.models import DigitsNet, Observer
        >>> teacher, student = Observer(DigitsNet(width=8)).freeze(), Observer(DigitsNet(width=4))
        >>> loss = NormDirection().build(teacher, student, image_shape=(1, 8, 8))
        >>> loss.set_class_means(torch.rand(10, 16))
        >>> images = torch.rand(2, 1, 8, 8)
        >>> outputs = student(images, embedding=True), teacher(images, embedding=True)
        >>> from lightning_condkd.distillation import LossContext
        >>> from lightning_condkd.randomness import Draw
        >>> loss(*outputs, torch.tensor([3, 7]), LossContext(draw=Draw(seed=0, step=0))).shape
        torch.Size([])
        >>> loss.embed
        Linear(in_features=8, out_features=16, bias=True)

    References:
        Wang et al.: "Improving Knowledge Distillation via Regularizing Feature Norm and Direction", arXiv 2305.17007;
        its code.
    """

    needs_embedding = True
    needs_labels = True
    needs_class_means = True
    embed: nn.Linear | None = None
    """Map to the teacher's width; ``None`` if the widths are equal."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a share in [0, 1), got {dropout}; 0 drops nothing")
        self.dropout = dropout

    def make(self, spec: LossSpec) -> None:
        """Create the map to the teacher's width where it is needed.

        Args:
            spec: shapes of the task.
        """
        self.needs_draw = self.dropout > 0 and spec.student.embedding_size != spec.teacher.embedding_size
        width, teacher_width = spec.student.embedding_size, spec.teacher.embedding_size
        if width != teacher_width:
            self.norm = nn.BatchNorm1d(width)
            self.embed = nn.Linear(width, teacher_width)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the batch mean, see :class:`DistillationLoss`."""
        assert student.embedding is not None
        assert teacher.embedding is not None
        assert labels is not None
        embedding = student.embedding if self.embed is None else self.embed(self._drop(self.norm(student.embedding)))
        return norm_direction_distance(embedding, teacher.embedding, self.class_means[labels])

    def _drop(self, features: Tensor) -> Tensor:
        """Apply dropout with numbers of the step, which a resumed run draws again."""
        if not (self.training and self.dropout):
            return features
        draw = self.draw
        count = len(features) * draw.world_size
        generator, dtype = draw.generator("norm direction"), at_least_float32_dtype()
        kept = torch.rand(count, features.shape[1], generator=generator, dtype=dtype) >= self.dropout
        return features * send(kept[draw.rows], features.device) / (1 - self.dropout)

    def extra_repr(self) -> str:
        """Return the argument for ``print``."""
        return f"dropout={self.dropout}"


class VkD(DistillationLoss):
    """Smooth L1 distance of the orthogonally projected student's embedding and the teacher's normalized one.

    The projection keeps the student's inner products, so it cannot learn to do the student's work. If the teacher's
    width is the smaller one, only its rows are orthonormal. Labels are not used.

    Published with cross-entropy (label smoothing 0.1) and :class:`KLDistillation` at temperature 1, all of weight 1,
    for transformers with a second head for the divergence; its code pools the tokens of the student. Here the embedding
    is the input of the student's final layer.

    Args:
        normalization: of the teacher's embedding: ``layer_norm`` without scale and offset (published for
            classification), or ``whitening`` by :func:`~lightning_condkd.functional.embeddings.whiten` (the paper
            whitens for generative tasks; which whitening, and its epsilon, is our choice).

    Raises:
        ValueError: if the normalization is unknown.

    Example:
        >>> from lightning_condkd.models import DigitsNet, Observer
        >>> teacher, student = Observer(DigitsNet(width=8)).freeze(), Observer(DigitsNet(width=4))
        >>> loss = VkD().build(teacher, student, image_shape=(1, 8, 8))
        >>> weight = loss.projector.weight
        >>> weight.shape, torch.allclose(weight.T @ weight, torch.eye(8), atol=1e-5)
        (torch.Size([16, 8]), True)

    References:
        Miles, Elezi, Deng: "VkD: Improving Knowledge Distillation using Orthogonal Projections", CVPR 2024, arXiv
        2403.06213; its code.
    """

    needs_embedding = True
    projector: nn.Module
    """Orthogonal projection of the student's embedding to the teacher's width."""

    def __init__(self, normalization: Normalization = "layer_norm") -> None:
        super().__init__()
        if normalization not in get_args(Normalization):
            known = ", ".join(get_args(Normalization))
            raise ValueError(f"normalization: expected one of {known}, got {normalization!r}")
        self.normalization = normalization

    def make(self, spec: LossSpec) -> None:
        """Create the projection.

        Args:
            spec: shapes of the task.
        """
        linear = nn.Linear(spec.student.embedding_size, spec.teacher.embedding_size, bias=False)
        self.projector = orthogonal(linear)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the mean over samples and features, see :class:`DistillationLoss`."""
        assert student.embedding is not None
        assert teacher.embedding is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            embedding = at_least_float32(student.embedding)
            projected = F.linear(embedding, self._projection().to(embedding.dtype))
        target = at_least_float32(teacher.embedding)
        target = whiten(target) if self.normalization == "whitening" else F.layer_norm(target, target.shape[1:])
        return F.smooth_l1_loss(projected, target)

    def _projection(self) -> Tensor:
        """Return the weight of the projection, computed in float32 at least: PyTorch cannot in a half type."""
        made = cast(nn.ModuleDict, self.projector.parametrizations)["weight"]
        held = {**dict(made.named_parameters()), **dict(made.named_buffers())}
        return cast(Tensor, functional_call(made, {name: at_least_float32(value) for name, value in held.items()}))

    def extra_repr(self) -> str:
        """Return the argument for ``print``."""
        return f"normalization={self.normalization}"
