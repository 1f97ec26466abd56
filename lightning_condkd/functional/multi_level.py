"""Distances of predictions at the levels of samples, classes and the batch, and masks by the teacher's confidence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.functional.divergence import check_temperature, kd_divergence
from lightning_condkd.precision import at_least_float32


def instance_divergence(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, kept: Tensor | None = None
) -> Tensor:
    r"""Return :math:`\tau^2 \, \mathrm{KL}(p_T \,\|\, p_S)` of the softened predictions of some of the samples.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.
        temperature: divisor of both logits, positive.
        kept: samples that count, ``(N,)`` boolean; ``None`` for all.

    Returns:
        Sum over those samples divided by N, a scalar in float32 at least.

    Raises:
        ValueError: if the temperature is not positive.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> round(instance_divergence(logits.flip(1), logits, 1.0, kept=torch.tensor([True, False])).item(), 4)
        0.7616

    References:
        Jin, Wang, Lin: "Multi-Level Logit Distillation", CVPR 2023; its code.
    """
    if kept is None:
        return kd_divergence(student_logits, teacher_logits, temperature)
    check_temperature(temperature)
    student, teacher = (
        F.log_softmax(at_least_float32(x) / temperature, dim=1) for x in (student_logits, teacher_logits)
    )
    divergences = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return (divergences * kept).mean() * temperature**2


def class_gram_distance(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, kept: Tensor | None = None
) -> Tensor:
    r"""Return :math:`\frac{1}{K} \| P_T^\top P_T - P_S^\top P_S \|_F^2` of the softened predictions P.

    The sums over the batch are not divided by N, so the distance grows with the square of the batch size.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.
        temperature: divisor of both logits, positive.
        kept: classes whose columns of the Gram matrix count, ``(K,)`` boolean; ``None`` for all.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the temperature is not positive.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(class_gram_distance(-logits, logits, temperature=1.0).item(), 4)
        0.58

    References:
        Jin, Wang, Lin: "Multi-Level Logit Distillation", CVPR 2023; its code.
    """
    check_temperature(temperature)
    student, teacher = (_softened(x, temperature).T for x in (student_logits, teacher_logits))
    return _gram_distance(student, teacher, kept)


def batch_gram_distance(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, kept: Tensor | None = None
) -> Tensor:
    r"""Return :math:`\frac{1}{N} \| P_T P_T^\top - P_S P_S^\top \|_F^2` of the softened predictions P.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.
        temperature: divisor of both logits, positive.
        kept: samples whose columns of the Gram matrix count, ``(N,)`` boolean; ``None`` for all.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the temperature is not positive.

    Example:
        >>> teacher, student = torch.tensor([[99.0, 0.0], [99.0, 0.0]]), torch.tensor([[99.0, 0.0], [0.0, 99.0]])
        >>> batch_gram_distance(student, teacher, temperature=1.0)
        tensor(1.)

    References:
        Jin, Wang, Lin: "Multi-Level Logit Distillation", CVPR 2023; its code.
    """
    check_temperature(temperature)
    student, teacher = (_softened(x, temperature) for x in (student_logits, teacher_logits))
    return _gram_distance(student, teacher, kept)


def low_confidence(teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return which samples and classes of a batch the teacher is less sure of than of the median one.

    A sample's confidence is the largest probability, a class's is the sum of its probabilities over the batch.

    Args:
        teacher_logits: ``(N, K)``.

    Returns:
        Samples, ``(N,)``, and classes, ``(K,)``, as booleans: those at or below the median.

    Example:
        >>> low_confidence(torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
        (tensor([False,  True]), tensor([False,  True,  True]))

    References:
        Jin, Wang, Lin: "Multi-Level Logit Distillation", CVPR 2023: the code of its authors.
    """
    predictions = _softened(teacher_logits.detach(), 1.0)
    samples, classes = predictions.amax(1), predictions.sum(0)
    return samples <= samples.quantile(0.5), classes <= classes.quantile(0.5)


def _softened(logits: Tensor, temperature: float) -> Tensor:
    return F.softmax(at_least_float32(logits) / temperature, dim=1)


def _gram_distance(student: Tensor, teacher: Tensor, kept: Tensor | None) -> Tensor:
    with torch.autocast(student.device.type, enabled=False):
        squares = (teacher @ teacher.T - student @ student.T).square()
    return (squares.sum(0) if kept is None else squares.sum(0) * kept).sum() / len(student)
