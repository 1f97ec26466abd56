"""Losses that compare logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.functional.divergence import check_temperature, kd_divergence, logits_l1
from lightning_condkd.precision import at_least_float32
from lightning_condkd.types import NetworkOutput


class CrossEntropy(DistillationLoss):
    """Cross-entropy with the labels, for combinations; the teacher's prediction stands in for an unknown class.

    Args:
        label_smoothing: share of the label that is spread over all classes, in [0, 1).

    Raises:
        ValueError: if the label smoothing is outside [0, 1).

    Example:
        >>> import torch
        >>> student, teacher = NetworkOutput(torch.tensor([[1.0, 0.0]])), NetworkOutput(torch.zeros(1, 2))
        >>> round(CrossEntropy()(student, teacher, torch.tensor([0])).item(), 4)
        0.3133
        >>> round(CrossEntropy()(student, teacher, torch.tensor([[0.5, 0.5]])).item(), 4)
        0.8133
    """

    needs_labels = True
    accepts_soft_labels = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a share in [0, 1), got {label_smoothing}; 0.1 is usual")
        self.label_smoothing = label_smoothing

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the batch mean, see :class:`DistillationLoss`."""
        assert labels is not None
        logits = at_least_float32(student.logits)
        target = labels.to(logits.dtype) if labels.is_floating_point() else labels
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        """Return the argument for ``print``."""
        return f"label_smoothing={self.label_smoothing}"


class KLDistillation(DistillationLoss):
    """:func:`~lightning_condkd.functional.divergence.kd_divergence` of softened predictions; labels are not used.

    Args:
        temperature: divisor of both logits, positive; 20 is the value in the code of Fast and CMI.

    Raises:
        ValueError: if the temperature is not positive.

    Example:
        >>> import torch
        >>> KLDistillation(temperature=4.0)(NetworkOutput(torch.zeros(2, 3)), NetworkOutput(torch.ones(2, 3)))
        tensor(0.)
    """

    def __init__(self, temperature: float = 20.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the batch mean, see :class:`DistillationLoss`."""
        return kd_divergence(student.logits, teacher.logits, self.temperature)

    def extra_repr(self) -> str:
        """Return the temperature for ``print``."""
        return f"temperature={self.temperature}"


class LogitsL1Distillation(DistillationLoss):
    """Mean absolute difference of the logits, the loss of PRE-DFKD; labels are not used.

    Example:
        >>> import torch
        >>> LogitsL1Distillation()(NetworkOutput(torch.zeros(2, 3)), NetworkOutput(torch.ones(2, 3)))
        tensor(1.)

    References:
        Binici et al.: "Robust and Resource-Efficient Data-Free Knowledge Distillation by Generative Pseudo Replay",
        arXiv 2201.03019.
    """

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the mean over samples and classes, see :class:`DistillationLoss`."""
        return logits_l1(student.logits, teacher.logits)
