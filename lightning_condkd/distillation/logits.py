"""Losses that compare logits."""

from __future__ import annotations

from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.functional.divergence import kd_divergence, logits_l1
from lightning_condkd.types import NetworkOutput


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
        if not temperature > 0:
            raise ValueError(
                f"temperature: expected a positive number, got {temperature}; 1.0 leaves the logits unchanged."
            )
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
