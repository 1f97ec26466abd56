"""Distillation by the correlation of predictions."""

from __future__ import annotations

from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.functional.divergence import check_temperature
from lightning_condkd.functional.logits import inter_class_distance, intra_class_distance
from lightning_condkd.types import LossTerms, NetworkOutput


class DIST(DistillationLoss):
    """Pearson's correlation of predictions, over the classes of each sample and over the batch for each class.

    Labels are not used. Published with cross-entropy of weight 1. The batch is that of this rank; it should hold
    several samples of a class.

    Args:
        beta: weight of :func:`~lightning_condkd.functional.logits.inter_class_distance` (official code 1).
        gamma: weight of :func:`~lightning_condkd.functional.logits.intra_class_distance` (official code 1).
        temperature: divisor of both logits, positive (official code 1). The terms are multiplied by its square.

    Raises:
        ValueError: if a weight is negative or the temperature not positive.

    Example:
        >>> import torch
        >>> from lightning_condkd.types import NetworkOutput
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> round(DIST()(NetworkOutput(logits + 3), NetworkOutput(logits)).item(), 6)
        0.0

    References:
        Huang et al.: "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv 2205.10536; its code.
    """

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        check_temperature(temperature)
        if not (beta >= 0 and gamma >= 0):
            raise ValueError(f"expected weights beta and gamma >= 0, got {beta} and {gamma}")
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> LossTerms:
        """Return the two distances, see :class:`DistillationLoss`."""
        given = student.logits, teacher.logits, self.temperature
        return LossTerms(
            {"inter_class": inter_class_distance(*given), "intra_class": intra_class_distance(*given)},
            {"inter_class": self.beta, "intra_class": self.gamma},
        )

    def extra_repr(self) -> str:
        """Return the arguments for ``print``."""
        return f"beta={self.beta}, gamma={self.gamma}, temperature={self.temperature}"
