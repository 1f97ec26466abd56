"""What a student is compared with its teacher by."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32


def kd_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    r"""Return the divergence of softened predictions, :math:`\tau^2 \, \mathrm{KL}(p_T^\tau \,\|\, p_S^\tau)`.

    The factor keeps the size of the gradient independent of the temperature. Nothing is detached.

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
    if not temperature > 0:
        raise ValueError(
            f"temperature: expected a positive number, got {temperature}; 1.0 leaves the logits unchanged."
        )
    student = F.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(at_least_float32(teacher_logits) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def logits_l1(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the mean absolute difference of the logits, over samples and classes alike.

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
    """Return the share of samples for which both predict the same class.

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
