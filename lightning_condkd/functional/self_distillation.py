"""Self-distillation loss between a network's logits on real and on generated images."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.functional.divergence import check_temperature, kd_divergence
from lightning_condkd.functional.logits import standardize_logits
from lightning_condkd.functional.matching import class_means
from lightning_condkd.precision import at_least_float32

Pairing = Literal["sample", "class_mean"]
Distance = Literal["kl", "mse"]


def self_distillation_loss(
    real_logits: Tensor,
    synthetic_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    standardize: bool = True,
    pairing: Pairing = "sample",
    distance: Distance = "kl",
) -> Tensor:
    r"""Return the divergence of a network's predictions on generated images from those on real images.

    It is :math:`\tau^2 \, \mathrm{KL}(p_R \,\|\, p_S)` with :math:`p = \mathrm{softmax}(z / \tau)` and the standardised
    logits z, a mean over pairs. The real side is detached. The paper has no code and its formulas were not available:
    this is a reconstruction, without any numbers from the paper.

    Args:
        real_logits: ``(N, K)``.
        synthetic_logits: ``(N, K)``.
        labels: classes of the rows, the same for both, ``(N,)`` int64.
        temperature: divisor of the logits, positive (our default).
        standardize: whether logits go through
            :func:`~lightning_condkd.functional.logits.standardize_logits` first.
        pairing: ``sample`` compares row by row; ``class_mean`` compares the mean (standardised) logits of each class
            in the batch.
        distance: ``kl``, or ``mse`` for :math:`\tau^2` times the mean squared difference of log-probabilities over
            pairs and classes. At temperature 1, by ``sample`` and not standardised, ``mse`` is the loss of DiM's code.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if shapes differ, the temperature is not positive or a name is unknown.

    Example:
        >>> import torch
        >>> real, synthetic = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[0.0, 2.0, 1.0]])
        >>> round(self_distillation_loss(real, synthetic, torch.tensor([0])).item(), 4)
        1.3196
        >>> self_distillation_loss(real, 5 * real + 3, torch.tensor([0])).abs() < 1e-6
        tensor(True)

    References:
        Li et al.: "Generative Dataset Distillation Based on Self-knowledge Distillation", arXiv 2501.04202.
        Wang et al.: "DiM: Distilling Dataset into Generative Model", arXiv 2303.04707; its code.
    """
    check_choices(temperature, pairing, distance)
    if real_logits.shape != synthetic_logits.shape or labels.shape != real_logits.shape[:1]:
        shapes = [tuple(x.shape) for x in (real_logits, synthetic_logits, labels)]
        raise ValueError(f"expected real and synthetic logits (N, K) and labels (N,), got {shapes}: pair the batches")
    real, synthetic = at_least_float32(real_logits.detach()), at_least_float32(synthetic_logits)
    if standardize:
        real, synthetic = standardize_logits(real), standardize_logits(synthetic)
    if pairing == "class_mean":
        classes, rows = torch.unique(labels, return_inverse=True)
        real, synthetic = (class_means(x, rows, len(classes)) for x in (real, synthetic))
    if distance == "kl":
        return kd_divergence(synthetic, real, temperature)
    first, second = (F.log_softmax(x / temperature, dim=1) for x in (real, synthetic))
    return F.mse_loss(second, first) * temperature**2


def check_choices(temperature: float, pairing: str, distance: str) -> None:
    """Check the arguments of :func:`self_distillation_loss` that do not depend on a batch.

    Args:
        temperature: a positive number.
        pairing: ``sample`` or ``class_mean``.
        distance: ``kl`` or ``mse``.

    Raises:
        ValueError: if an argument has another value.

    Example:
        >>> check_choices(4.0, "sample", "kl")
    """
    check_temperature(temperature)
    if pairing not in get_args(Pairing):
        raise ValueError(f"pairing: expected 'sample' or 'class_mean', got {pairing!r}")
    if distance not in get_args(Distance):
        raise ValueError(f"distance: expected 'kl' or 'mse', got {distance!r}")
