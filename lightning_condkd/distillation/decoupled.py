"""Decoupled knowledge distillation."""

from __future__ import annotations

from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.warmup import PUBLISHED_WARMUP, warmup_weight
from lightning_condkd.functional.divergence import check_temperature
from lightning_condkd.functional.logits import non_target_divergence, target_divergence
from lightning_condkd.types import LossTerms, NetworkOutput


class DKD(DistillationLoss):
    """Decoupled knowledge distillation: two divergences, of the given class and among all others.

    Published with cross-entropy of weight 1. The class is that of the image, or the teacher's prediction where it is
    unknown.

    Args:
        alpha: weight of :func:`~lightning_condkd.functional.logits.target_divergence` (official code 1).
        beta: weight of :func:`~lightning_condkd.functional.logits.non_target_divergence`. In the official code 8 for
            ResNet-32x4, ResNet-50 and ShuffleNet, 6 for WideResNet and VGG, 2 for ResNet-56 and ResNet-110 on
            CIFAR-100; on ImageNet 0.5 for ResNet-34 to ResNet-18 and 2 for ResNet-50 to MobileNet.
        temperature: divisor of both logits, positive (official code 4 on CIFAR-100, 1 on ImageNet).
        warmup: share of the run in which the weight of both rises from 0 to 1; 0 for none (official code: 20 of 240
            epochs on CIFAR-100, 1 of 100 on ImageNet). The official code raises it by epochs, this loss by steps.

    Raises:
        ValueError: if a weight is negative, the temperature not positive or the warm-up outside [0, 1].

    Example:
        >>> import torch
        >>> from lightning_condkd.types import NetworkOutput
        >>> student, teacher = NetworkOutput(torch.zeros(1, 3)), NetworkOutput(torch.tensor([[2.0, 1.0, 0.0]]))
        >>> terms = DKD(temperature=1.0).terms(student, teacher, torch.tensor([0]))
        >>> {name: round(value.item(), 4) for name, value in terms.values.items()}, terms.weights
        ({'target': 0.2291, 'non_target': 0.1109}, {'target': 1.0, 'non_target': 8.0})

    References:
        Zhao et al.: "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679; its code (mdistiller).
    """

    needs_labels = True

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        *,
        warmup: float = PUBLISHED_WARMUP,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        warmup_weight(0.0, warmup)
        if not (alpha >= 0 and beta >= 0):
            raise ValueError(f"expected weights alpha and beta >= 0, got {alpha} and {beta}")
        self.alpha, self.beta, self.temperature, self.warmup = alpha, beta, temperature, warmup
        self.needs_progress = warmup > 0

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> LossTerms:
        """Return the two divergences, see :class:`DistillationLoss`."""
        assert labels is not None
        given = student.logits, teacher.logits, labels, self.temperature
        weight = warmup_weight(self.context.progress, self.warmup)
        return LossTerms(
            {"target": target_divergence(*given), "non_target": non_target_divergence(*given)},
            {"target": weight * self.alpha, "non_target": weight * self.beta},
        )

    def extra_repr(self) -> str:
        """Return the arguments for ``print``."""
        return f"alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}, warmup={self.warmup:g}"
