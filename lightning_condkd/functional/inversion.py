"""The terms by which images are drawn out of a trained teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32
from lightning_condkd.types import BatchNormStatistics


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy between the teacher's prediction and the wanted class, batch mean.

    Args:
        logits: ``(N, K)``.
        labels: wanted classes, ``(N,)`` int64.

    Returns:
        A scalar in float32 at least.

    Example:
        >>> class_loss(torch.zeros(3, 2), torch.tensor([0, 1, 0]))
        tensor(0.6931)
    """
    return F.cross_entropy(at_least_float32(logits), labels)


def _distance(batch: Tensor, running: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(at_least_float32(batch) - at_least_float32(running))
    return norm


def bn_distance(statistics: Sequence[BatchNormStatistics]) -> Tensor:
    r"""Return how far the batch is from the running statistics of all BatchNorm layers.

    It is :math:`\sum_l \|\mu_l - \hat\mu_l\|_2 + \|\sigma^2_l - \hat\sigma^2_l\|_2` with plain norms: neither squared
    nor divided by the number of channels. The gradient at zero distance is zero. On several processes the statistics
    are those of each rank.

    Args:
        statistics: one record per layer.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if there is no layer.

    Example:
        >>> zero, mean = torch.zeros(2), torch.tensor([3.0, 4.0])
        >>> bn_distance([BatchNormStatistics(mean, variance=zero, running_mean=zero, running_variance=zero)])
        tensor(5.)

    References:
        Yin et al.: "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", arXiv 1912.08795.
    """
    if not statistics:
        raise ValueError(
            "bn_distance: expected at least one BatchNorm record, got none. Ask the observer for them (bn=True); "
            "for a teacher without BatchNorm set bn_weight=0 or choose a method that does not need them."
        )
    means = [_distance(layer.mean, layer.running_mean) for layer in statistics]
    variances = [_distance(layer.variance, layer.running_variance) for layer in statistics]
    return torch.stack(means + variances).sum()


def blend_statistics(
    statistics: Sequence[BatchNormStatistics],
    mean_ema: Sequence[Tensor],
    variance_ema: Sequence[Tensor],
    momentum: float,
) -> tuple[BatchNormStatistics, ...]:
    """Return the records with batch statistics pulled towards their average over earlier rounds.

    Each becomes ``(1 - momentum) * batch + momentum * average``; the average is a constant, so gradients shrink by ``1
    - momentum``.

    Args:
        statistics: one record per layer, of C channels each.
        mean_ema: average of the batch means, ``(C,)`` for each layer.
        variance_ema: average of the batch variances, ``(C,)`` for each layer.
        momentum: share of the average, in [0, 1].

    Raises:
        ValueError: if the number of layers differs.

    Example:
        >>> one = torch.ones(1)
        >>> layer = BatchNormStatistics(mean=2 * one, variance=one, running_mean=one, running_variance=one)
        >>> blend_statistics([layer], [4 * one], [one], momentum=0.5)[0].mean
        tensor([3.])

    References:
        Fang et al.: "Up to 100x Faster Data-free Knowledge Distillation", arXiv 2112.06253; in its code.
    """
    if not len(statistics) == len(mean_ema) == len(variance_ema):
        raise ValueError(
            f"blend_statistics: expected one average for each of the {len(statistics)} BatchNorm layers, got "
            f"{len(mean_ema)} means and {len(variance_ema)} variances; make them from the same teacher."
        )
    return tuple(
        layer._replace(
            mean=layer.mean * (1 - momentum) + mean.detach() * momentum,
            variance=layer.variance * (1 - momentum) + variance.detach() * momentum,
        )
        for layer, mean, variance in zip(statistics, mean_ema, variance_ema, strict=True)
    )


def adversarial_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    r"""Return the negative divergence on the samples that teacher and student still classify alike.

    It is :math:`-\frac{1}{N} \sum_i [\arg\max S_i = \arg\max T_i] \, \mathrm{KL}(p_T \,\|\, p_S)_i` at temperature 1:
    all N samples count in the denominator, the mask is a constant, and the gradient flows through both networks.

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
