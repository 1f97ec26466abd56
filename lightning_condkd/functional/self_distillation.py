"""The self-distillation loss between a network's logits of real and of generated images."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.functional.divergence import kd_divergence
from lightning_condkd.functional.matching import class_means
from lightning_condkd.precision import at_least_float32

Pairing = Literal["sample", "class_mean"]
Distance = Literal["kl", "mse"]


def standardize_logits(logits: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Return :math:`(v - \bar v) / (\sigma_v + \epsilon)` for every sample: neither scale nor shift of its logits.

    The deviation is the unbiased one, as in the official code.

    Args:
        logits: ``(N, K)``.
        eps: added to the deviation (official code 1e-7).

    Returns:
        ``(N, K)`` in float32 at least; a row of equal logits becomes 0.

    Raises:
        ValueError: if there are fewer than two classes.

    Example:
        >>> import torch
        >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0], [10.0, 30.0, 50.0]]))
        tensor([[-1.0000,  0.0000,  1.0000],
                [-1.0000,  0.0000,  1.0000]])

    References:
        Sun et al.: "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv 2403.01427; its code.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"logits: expected at least 2 classes to standardise over, got {tuple(logits.shape)}")
    logits = at_least_float32(logits)
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + eps)


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
    r"""Return what a network, taught by its own predictions on real images, is to correct in generated ones.

    It is :math:`\tau^2 \, \mathrm{KL}(p_R \,\|\, p_S)` with :math:`p = \mathrm{softmax}(z / \tau)` and the standardised
    logits z, a mean over pairs. The real side is detached. The paper has no code and its formulas were not at hand:
    this is our reconstruction, and none of its numbers.

    Args:
        real_logits: ``(N, K)``.
        synthetic_logits: ``(N, K)``.
        labels: classes of the rows, the same for both, ``(N,)`` int64.
        temperature: divisor of the logits, positive (our default).
        standardize: whether logits go through :func:`standardize_logits` first.
        pairing: ``sample`` compares row by row; ``class_mean`` compares the mean logits of each class that is there,
            taken after they are standardised.
        distance: ``kl``, or ``mse`` for :math:`\tau^2` times the mean squared difference of log-probabilities, over
            pairs and classes alike: at temperature 1, by sample and not standardised it is that of DiM's code.

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
        temperature: to be positive.
        pairing: to be ``sample`` or ``class_mean``.
        distance: to be ``kl`` or ``mse``.

    Raises:
        ValueError: if one is not.

    Example:
        >>> check_choices(4.0, "sample", "kl")
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}; 1.0 leaves the logits unchanged")
    if pairing not in get_args(Pairing):
        raise ValueError(f"pairing: expected 'sample' or 'class_mean', got {pairing!r}")
    if distance not in get_args(Distance):
        raise ValueError(f"distance: expected 'kl' or 'mse', got {distance!r}")
