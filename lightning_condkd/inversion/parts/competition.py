"""Loss term that is low for images on which teacher and student disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from lightning_condkd.functional.divergence import jensen_shannon

Reduction = Literal["batchmean", "elementwise"]


@dataclass(frozen=True)
class Competition:
    """Settings of the term for disagreement of teacher and current student.

    The term is ``1 - JS`` with the Jensen-Shannon divergence JS of teacher and student, limited to [0, 1], see
    :func:`~lightning_condkd.functional.divergence.jensen_shannon`. Temperature and clamp are those of the official
    code of DeepInversion and PRE-DFKD.

    Args:
        weight: weight of the term: 1 in the code of DataFree and PRE-DFKD, 0.2 in the paper of DeepInversion for
            ImageNet; 0 disables it.
        temperature: temperature of the predictions in JS.
        clamp: smallest probability in JS; with the published 0.01 most classes have no gradient if there are 100 or
            more.
        reduction: ``batchmean`` (DeepInversion), or ``elementwise`` (PRE-DFKD), which divides JS by the number of
            classes.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(Competition(temperature=1.0).loss(logits, -logits).item(), 4)
        0.5662

    References:
        Yin et al.: "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020; its adaptive form.
        Binici et al.: "Robust and Resource-Efficient Data-Free Knowledge Distillation by Generative Pseudo Replay",
        arXiv 2201.03019.
    """

    weight: float = 1.0
    temperature: float = 3.0
    clamp: float = 0.01
    reduction: Reduction = "batchmean"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"expected temperature > 0, got {self.temperature}: 1.0 leaves the logits unchanged")
        if not 0 <= self.clamp < 0.5:
            raise ValueError(f"expected clamp, the smallest probability, in [0, 0.5), got {self.clamp}")
        if self.reduction not in get_args(Reduction):
            raise ValueError(f"expected reduction 'batchmean' or 'elementwise', got {self.reduction!r}")

    def loss(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        """Return ``1 - JS`` without its weight: 1 for equal predictions, 0 for very different ones.

        Args:
            teacher_logits: ``(N, K)``.
            student_logits: ``(N, K)``.

        Returns:
            A scalar in [0, 1], in float32 at least.
        """
        divergence = jensen_shannon(
            teacher_logits,
            student_logits,
            temperature=self.temperature,
            clamp=self.clamp,
            reduction=self.reduction,
        )
        return 1 - divergence.clamp(0, 1)
