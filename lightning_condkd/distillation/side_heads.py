"""Distillation into classifiers at the side of the student's stages (OFA-KD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.distillation.parts.stage_heads import convolutional_head, token_head
from lightning_condkd.functional.divergence import check_temperature
from lightning_condkd.functional.logits import adapted_cross_entropy
from lightning_condkd.models import Observer
from lightning_condkd.models.stages import stage_names
from lightning_condkd.types import LossTerms, NetworkOutput


class OFAKD(DistillationLoss):
    """One-for-all distillation: stages of the student predict by side heads, and all predictions learn the teacher's.

    The teacher gives logits only, so any architectures pair up. Each prediction is compared by
    :func:`~lightning_condkd.functional.logits.adapted_cross_entropy`. The class is that of the image, the largest of a
    soft label, or the teacher's prediction where it is unknown.

    A head of a stage of maps halves them once for each stage after it in the list, by separable convolutions that
    double the channels, then takes the mean over positions and a linear layer; the last stage has a 1x1 convolution
    instead. A head of a stage of tokens, a block of a transformer, merges patches as far as there are many and has an
    attention block for each stage after it, one at least. The heads are those of the official code, but for the biases
    in its attention; they are trained with the student and not used to predict.

    Published with cross-entropy of weight 1 (label smoothing 0.1).

    Args:
        student_maps: names of the student's stages from first to last, such as ``layer1`` to ``layer4`` (official code:
            all four stages of a network, of 12 blocks of a transformer the second, fourth, tenth and last); ``None``
            for its :func:`~lightning_condkd.models.stages.stage_names`, which a transformer does not have.
        exponent: gamma of the adapted cross-entropy, one number for all, or one for each stage and one for the final
            logits (official code 1 on CIFAR-100; its command for ImageNet has 1.5).
        temperature: divisor of all logits, positive (official code 1).
        stage_weight: weight of the sum over the stages (official code 1).
        logits_weight: weight of the term of the final logits (official code 1).
        head_width: channels before the linear layer of a head; ``None`` for the larger one of the widths of the two
            embeddings, for tokens that of the student's, as in the official code.

    Raises:
        ValueError: if no stage is named, or a number is outside its range or missing.

    Example:
        >>> from lightning_condkd.models import DigitsNet, Observer
        >>> teacher, student = Observer(DigitsNet(width=8)).freeze(), Observer(DigitsNet(width=4))
        >>> loss = OFAKD(["features.2", "features.8"]).build(teacher, student, image_shape=(1, 8, 8))
        >>> images = torch.rand(2, 1, 8, 8)
        >>> outputs = student(images, embedding=True, maps=loss.student_maps), teacher(images, embedding=True)
        >>> sorted(loss.terms(*outputs, torch.tensor([3, 7])).values)
        ['logits', 'stages']

    References:
        Hao et al.: "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        NeurIPS 2023, arXiv 2310.19444; its code.
    """

    needs_labels = True
    accepts_soft_labels = True
    heads: nn.ModuleList
    """One head for each stage, from maps to logits ``(N, K)``."""

    def __init__(
        self,
        student_maps: Sequence[str] | None = None,
        exponent: float | Sequence[float] = 1.0,
        temperature: float = 1.0,
        *,
        stage_weight: float = 1.0,
        logits_weight: float = 1.0,
        head_width: int | None = None,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        if isinstance(student_maps, str) or (student_maps is not None and not student_maps):
            raise ValueError(f"student_maps: expected a list of names of one or more stages, got {student_maps!r}")
        if not (stage_weight > 0 and logits_weight >= 0):
            weights = f"got {stage_weight} and {logits_weight}: nothing else trains the heads"
            raise ValueError(f"expected stage_weight > 0 and logits_weight >= 0, {weights}")
        if head_width is not None and head_width < 1:
            raise ValueError(f"head_width: expected a count of channels, got {head_width}")
        self.student_maps, self.temperature = tuple(student_maps or ()), temperature
        self.exponent = exponent
        if student_maps is not None:
            _exponents(exponent, len(student_maps) + 1)
        self.stage_weight, self.logits_weight, self.head_width = stage_weight, logits_weight, head_width
        self.needs_embedding = head_width is None

    def resolve_maps(self, teacher: Observer, student: Observer) -> None:
        """Take the student's stages if no maps are named.

        Args:
            teacher: the teacher.
            student: the student.

        Raises:
            ValueError: if the student has no stages.
        """
        self.student_maps = self.student_maps or stage_names(student.network)
        if not self.student_maps:
            name = type(student.network).__name__
            raise ValueError(f"OFAKD: found no stages in {name}: give student_maps, the names of its modules")

    def make(self, spec: LossSpec) -> None:
        """Create the heads.

        Args:
            spec: shapes of the task.

        Raises:
            ValueError: if a stage has neither maps ``(C, H, W)`` nor tokens ``(L, D)``, or ``head_width`` does not fit.
        """
        shapes = spec.student.maps
        if any(len(shape) not in (2, 3) for shape in shapes):
            raise ValueError(
                f"OFAKD: expected maps (C, H, W) or tokens (L, D) from the student's modules {self.student_maps}, got "
                f"{shapes}: name stages of a convolutional network or blocks of a transformer"
            )
        self.exponents = _exponents(self.exponent, len(shapes) + 1)
        later = reversed(range(len(shapes)))
        self.heads = nn.ModuleList([self._head(shape, n, spec) for shape, n in zip(shapes, later, strict=True)])

    def _head(self, shape: tuple[int, ...], later: int, spec: LossSpec) -> nn.Sequential:
        own, theirs = spec.student.embedding_size, spec.teacher.embedding_size
        if len(shape) == 2:
            return token_head(*shape, max(later, 1), self.head_width or own, spec.num_classes)
        return convolutional_head(shape[0], later, self.head_width or max(own, theirs), spec.num_classes)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> LossTerms:
        """Return the sum over the stages and the term of the logits, see :class:`DistillationLoss`."""
        assert labels is not None
        classes = labels.argmax(1) if labels.dim() == 2 else labels
        predictions = [head(maps) for head, maps in zip(self.heads, student.maps, strict=True)]
        losses = [
            adapted_cross_entropy(logits, teacher.logits, classes, exponent, self.temperature)
            for logits, exponent in zip([*predictions, student.logits], self.exponents, strict=True)
        ]
        return LossTerms(
            {"stages": torch.stack(losses[:-1]).sum(), "logits": losses[-1]},
            {"stages": self.stage_weight, "logits": self.logits_weight},
        )

    def extra_repr(self) -> str:
        """Return the arguments for ``print``."""
        weights = f"stage_weight={self.stage_weight}, logits_weight={self.logits_weight}"
        return f"student_maps={self.student_maps}, exponent={self.exponent}, temperature={self.temperature}, {weights}"


def _exponents(exponent: float | Sequence[float], count: int) -> tuple[float, ...]:
    exponents = (exponent,) * count if isinstance(exponent, float | int) else tuple(exponent)
    if len(exponents) != count or not all(one > 0 for one in exponents):
        expected = f"expected a positive number, or {count} (one for each stage and one for the logits)"
        raise ValueError(f"exponent: {expected}, got {exponent}")
    return exponents
