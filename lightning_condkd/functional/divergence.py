"""Divergences and distances between the predictions of two networks."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32

Reduction = Literal["batchmean", "elementwise"]


def jensen_shannon(
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    temperature: float = 3.0,
    clamp: float = 0.01,
    reduction: Literal["batchmean", "elementwise"] = "batchmean",
) -> Tensor:
    r"""Return the Jensen-Shannon divergence as computed in the code of DeepInversion and PRE-DFKD.

    It is :math:`\frac12 \mathrm{KL}(M \| P) + \frac12 \mathrm{KL}(M \| Q)` with the softened predictions P and Q and
    their mean M: the arguments of KL are swapped with respect to the textbook. M is taken first, then all three are
    clamped, so they no longer sum to one. A class that both predict below the clamp has no gradient; with 100 classes
    or more these are most classes, so use a lower clamp. The value can exceed 1 and, because of the clamp, fall
    slightly below 0. Nothing is detached.

    Args:
        teacher_logits: ``(N, K)``.
        student_logits: ``(N, K)``.
        temperature: divisor of both logits, positive.
        clamp: limits probabilities to [clamp, 1 - clamp]; with 0 the only limit is that of the floating point format.
        reduction: ``batchmean`` divides the sum by N (DeepInversion), ``elementwise`` by N times K (PRE-DFKD).

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if temperature, clamp or reduction are out of their range.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(jensen_shannon(logits, -logits, temperature=1.0).item(), 4)
        0.4338
        >>> jensen_shannon(logits, logits).item()
        0.0

    References:
        Yin et al.: "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", arXiv 1912.08795; its code.
        Binici et al.: "Robust and Resource-Efficient Data-Free Knowledge Distillation by Generative Pseudo Replay",
        arXiv 2201.03019.
    """
    check_temperature(temperature)
    if not 0 <= clamp < 0.5:
        raise ValueError(f"clamp: expected the smallest probability, in [0, 0.5), got {clamp}")
    if reduction not in ("batchmean", "elementwise"):
        raise ValueError(f"reduction: expected 'batchmean' or 'elementwise', got {reduction!r}")
    first, second = (F.softmax(at_least_float32(x) / temperature, dim=1) for x in (teacher_logits, student_logits))
    lowest = max(clamp, torch.finfo(first.dtype).tiny)
    p, q, m = (x.clamp(lowest, 1 - clamp).log() for x in (first, second, (first + second) / 2))
    divergence = m.exp() * (m - (p + q) / 2)
    return divergence.mean() if reduction == "elementwise" else divergence.sum() / len(divergence)


def kd_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    r"""Return the divergence of softened predictions, :math:`\tau^2 \, \mathrm{KL}(p_T^\tau \,\|\, p_S^\tau)`.

    The factor :math:`\tau^2` keeps the size of the gradient independent of the temperature. Nothing is detached.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.
        temperature: divisor of both logits, positive.

    Returns:
        Mean over the batch, a scalar in float32 at least.

    Raises:
        ValueError: if the temperature is not positive.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(kd_divergence(logits.flip(1), logits, temperature=1.0).item(), 4)
        1.5232
        >>> kd_divergence(logits, logits, temperature=4.0).item()
        0.0

    References:
        Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """
    check_temperature(temperature)
    student = F.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(at_least_float32(teacher_logits) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def logits_l1(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the mean absolute difference of the logits over samples and classes.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.

    Returns:
        A scalar in float32 at least.

    Example:
        >>> import torch
        >>> logits_l1(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 1.0]]))
        tensor(1.5000)
    """
    return F.l1_loss(at_least_float32(student_logits), at_least_float32(teacher_logits))


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the share of samples for which both networks predict the same class.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.

    Returns:
        A float32 scalar in [0, 1].

    Example:
        >>> import torch
        >>> agreement(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.2, 0.1], [0.1, 0.2]]))
        tensor(0.5000)
    """
    return (student_logits.argmax(1) == teacher_logits.argmax(1)).float().mean()


def adversarial_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    r"""Return the negative divergence on the samples for which teacher and student predict the same class.

    It is :math:`-\frac{1}{N} \sum_i [\arg\max S_i = \arg\max T_i] \, \mathrm{KL}(p_T \,\|\, p_S)_i` at temperature 1:
    the denominator counts all N samples, the mask is a constant, and the gradient flows through both networks.

    Args:
        teacher_logits: ``(N, K)``.
        student_logits: ``(N, K)``.

    Returns:
        A scalar in float32 at least, not positive.

    Example:
        >>> teacher = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> round(adversarial_divergence(teacher, student).item(), 4)
        -0.0336

    References:
        Fang et al.: "Contrastive Model Inversion for Data-Free Knowledge Distillation", arXiv 2105.08584.
    """
    agree = teacher_logits.argmax(1) == student_logits.argmax(1)
    teacher = F.log_softmax(at_least_float32(teacher_logits), dim=1)
    student = F.log_softmax(at_least_float32(student_logits), dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return -(divergence * agree).mean()


def negative_divergence(teacher_logits: Tensor, student_logits: Tensor, reduction: Reduction = "batchmean") -> Tensor:
    r"""Return :math:`-\mathrm{KL}(p_T \,\|\, p_S)` at temperature 1; the gradient flows through both networks.

    Args:
        teacher_logits: ``(N, K)``.
        student_logits: ``(N, K)``.
        reduction: ``batchmean`` is the mean over samples (DataFree); ``elementwise`` divides by the number of classes
            as well (ZSKT).

    Returns:
        A scalar in float32 at least, not positive.

    Raises:
        ValueError: if the reduction is unknown.

    Example:
        >>> import torch
        >>> teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> round(negative_divergence(teacher, student).item(), 4)
        -1.5232
        >>> round(negative_divergence(teacher, student, reduction="elementwise").item(), 4)
        -0.7616

    References:
        Micaelli and Storkey: "Zero-shot Knowledge Transfer via Adversarial Belief Matching", arXiv 1905.09768.
    """
    check_reduction(reduction)
    parts = teacher_logits.shape[1] if reduction == "elementwise" else 1
    return -kd_divergence(student_logits, teacher_logits, 1.0) / parts


def check_reduction(reduction: str) -> None:
    """Check the name of a reduction.

    Args:
        reduction: the name.

    Raises:
        ValueError: if it is unknown.

    Example:
        >>> check_reduction("elementwise")
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"expected reduction 'batchmean' or 'elementwise', got {reduction!r}")


def check_temperature(temperature: float) -> None:
    """Check a divisor of logits.

    Args:
        temperature: the divisor.

    Raises:
        ValueError: if it is not positive.

    Example:
        >>> check_temperature(4.0)
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}; 1.0 leaves the logits unchanged")
