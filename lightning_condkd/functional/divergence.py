"""How far the predictions of two networks are apart, the same from either side."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32


def jensen_shannon(
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    temperature: float = 3.0,
    clamp: float = 0.01,
    reduction: Literal["batchmean", "elementwise"] = "batchmean",
) -> Tensor:
    r"""Return the Jensen-Shannon divergence as the codes of DeepInversion and PRE-DFKD have it.

    It is :math:`\frac12 \mathrm{KL}(M \| P) + \frac12 \mathrm{KL}(M \| Q)` with the softened predictions P and Q and
    their mean M: the arguments of KL are the other way round than in the textbook. All three are clamped after M was
    taken and no longer sum to one. A class that both predict below the clamp has no gradient, which with 100 classes or
    more is most of them: lower the clamp there. The value can exceed 1 and, by the clamp, fall slightly below 0.
    Nothing is detached.

    Args:
        teacher_logits: ``(N, K)``.
        student_logits: ``(N, K)``.
        temperature: divisor of both logits, positive.
        clamp: probabilities are kept in [clamp, 1 - clamp]; 0 for no limit but that of the floating point format.
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
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}; 1.0 leaves the logits unchanged")
    if not 0 <= clamp < 0.5:
        raise ValueError(f"clamp: expected the smallest probability, in [0, 0.5), got {clamp}")
    if reduction not in ("batchmean", "elementwise"):
        raise ValueError(f"reduction: expected 'batchmean' or 'elementwise', got {reduction!r}")
    first, second = (F.softmax(at_least_float32(x) / temperature, dim=1) for x in (teacher_logits, student_logits))
    lowest = max(clamp, torch.finfo(first.dtype).tiny)
    p, q, m = (x.clamp(lowest, 1 - clamp).log() for x in (first, second, (first + second) / 2))
    divergence = m.exp() * (m - (p + q) / 2)
    return divergence.mean() if reduction == "elementwise" else divergence.sum() / len(divergence)
