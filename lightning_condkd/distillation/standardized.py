"""Distillation of standardized logits: over the classes of a sample (LSKD) or over the batch (LumiNet)."""

from __future__ import annotations

from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.composed import ComposedLoss
from lightning_condkd.distillation.logits import KLDistillation
from lightning_condkd.distillation.warmup import PUBLISHED_WARMUP, warmup_weight
from lightning_condkd.functional.divergence import check_temperature, kd_divergence
from lightning_condkd.functional.logits import standardize_classes, standardize_logits
from lightning_condkd.types import LossTerms, NetworkOutput


class LSKD(ComposedLoss):
    """Any loss on logits that are standardized first, so that the student need not match the teacher's scale.

    The logits of both networks, also those of a second view, go through
    :func:`~lightning_condkd.functional.logits.standardize_logits`. What the inner loss needs, this one needs.

    Published with :class:`KLDistillation`, :class:`DKD` or :class:`MLKD` as the inner loss, at the temperature 2 (3 for
    some pairs) and with the weight 9 (1 to 18 in the published runs), together with cross-entropy on logits that are
    not standardized, of weight 0.1 (1 with DKD). With MLKD the official code standardizes the logits of the first term
    only, this class those of all terms.

    Args:
        loss: the inner loss; ``None`` for ``KLDistillation(temperature=2.0)``.

    Raises:
        TypeError: if it is no :class:`DistillationLoss`.

    Example:
        >>> import torch
        >>> from lightning_condkd.types import NetworkOutput
        >>> logits = torch.tensor([[2.0, 0.0, 1.0]])
        >>> abs(LSKD()(NetworkOutput(5 * logits + 3), NetworkOutput(logits)).item()) < 1e-6
        True

    References:
        Sun et al.: "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv 2403.01427; its code.
    """

    def __init__(self, loss: DistillationLoss | None = None) -> None:
        super().__init__()
        loss = KLDistillation(temperature=2.0) if loss is None else loss
        if not isinstance(loss, DistillationLoss):
            raise TypeError(f"loss: expected a DistillationLoss such as KLDistillation(2.0), got {type(loss).__name__}")
        self.loss = loss
        self.adopt_needs()

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> LossTerms:
        """Return the terms of the inner loss, see :class:`DistillationLoss`."""
        second = self.context.second
        if second is not None:
            second = _standardized(second[0]), _standardized(second[1])
        context = self.context._replace(second=second)
        return self.loss.terms(_standardized(student), _standardized(teacher), labels, context)

    def summary(self) -> str:
        """Return the inner loss in one line."""
        return f"LSKD of {self.loss.summary()}"


class LumiNet(DistillationLoss):
    r"""Divergence of logits that are standardized for each class over the batch: :math:`A^2 \mathrm{KL}(p_T \| p_S)`.

    Labels are not used. Published with cross-entropy of weight 2 (ResNet-32x4 to ResNet-8x4, to MobileNet) or 1 (other
    pairs). The batch is that of this rank.

    Args:
        alpha: A; in the official code 33 for ResNet-32x4 to ResNet-8x4, 35 to 75 for other pairs on CIFAR-100, 2 on
            ImageNet.
        temperature: divisor of the standardized logits, positive; in the official code 4 where A is 33 or 35, 8 where
            it is 70 or 75, 0.7 on ImageNet. Its square is no factor.
        warmup: share of the run in which the weight rises from 0 to 1; 0 for none (official code: 20 of 240 epochs on
            CIFAR-100, 1 of 100 on ImageNet). The official code raises it by epochs, this loss by steps.

    Raises:
        ValueError: if A or the temperature are not positive, or the warm-up is outside [0, 1].

    Example:
        >>> import torch
        >>> from lightning_condkd.types import NetworkOutput
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> LumiNet()(NetworkOutput(5 * logits + torch.tensor([1.0, 2.0])), NetworkOutput(logits)).item() < 1e-6
        True

    References:
        Hossain et al.: "LumiNet: Perception-Driven Knowledge Distillation via Statistical Logit Calibration", arXiv
        2310.03669; its code.
    """

    def __init__(self, alpha: float = 33.0, temperature: float = 4.0, *, warmup: float = PUBLISHED_WARMUP) -> None:
        super().__init__()
        check_temperature(temperature)
        warmup_weight(0.0, warmup)
        if not alpha > 0:
            raise ValueError(f"alpha: expected a positive number, got {alpha}; its square is the weight of the loss")
        self.alpha, self.temperature, self.warmup = alpha, temperature, warmup
        self.needs_progress = warmup > 0

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the batch mean, see :class:`DistillationLoss`."""
        first, second = (standardize_classes(output.logits) for output in (student, teacher))
        weight = warmup_weight(self.context.progress, self.warmup) * (self.alpha / self.temperature) ** 2
        return weight * kd_divergence(first, second, self.temperature)

    def extra_repr(self) -> str:
        """Return the arguments for ``print``."""
        return f"alpha={self.alpha}, temperature={self.temperature}, warmup={self.warmup:g}"


def _standardized(output: NetworkOutput) -> NetworkOutput:
    return output._replace(logits=standardize_logits(output.logits))
