"""The terms by which a generator is trained against a frozen teacher without labels."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.functional.kd import kd_divergence
from lightning_condkd.precision import at_least_float32

Reduction = Literal["batchmean", "elementwise"]


def activation_loss(embedding: Tensor) -> Tensor:
    r"""Return the negative mean magnitude of the embedding, :math:`-\frac{1}{ND} \sum |f|`.

    Args:
        embedding: ``(N, D)``.

    Returns:
        A scalar in float32 at least, not positive.

    Example:
        >>> import torch
        >>> activation_loss(torch.tensor([[1.0, -3.0]]))
        tensor(-2.)

    References:
        Chen et al.: "Data-Free Learning of Student Networks", arXiv 1904.01186, equation 6; the mean is in its code.
    """
    return -at_least_float32(embedding).abs().mean()


def balance_loss(logits: Tensor, *, log10: bool = False) -> Tensor:
    r"""Return the negative entropy of the mean prediction, :math:`\sum_c \bar p_c \log \bar p_c`.

    It is least, :math:`-\log K`, where a batch is predicted to hold all classes in equal parts. It joins the samples of
    a batch: on several processes it is that of each rank.

    Args:
        logits: ``(N, K)``.
        log10: whether the logarithm is to base 10, as in the codes of DAFL and PRE-DFKD; natural in that of DataFree,
            2.303 times as much.

    Returns:
        A scalar in float32 at least, not positive.

    Example:
        >>> import torch
        >>> balance_loss(torch.tensor([[9.0, -9.0], [-9.0, 9.0]]))
        tensor(-0.6931)
        >>> balance_loss(torch.tensor([[9.0, -9.0], [9.0, -9.0]])).abs() < 1e-6
        tensor(True)

    References:
        Chen et al.: "Data-Free Learning of Student Networks", arXiv 1904.01186, equation 7.
    """
    # The mean is taken of logarithms, so that a class that nobody predicts has a finite gradient.
    logarithm = F.log_softmax(at_least_float32(logits), dim=1).logsumexp(0) - math.log(len(logits))
    loss = (logarithm.exp() * logarithm).sum()
    return loss / math.log(10) if log10 else loss


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
