"""Loss terms of teacher inversion: class, BatchNorm, activation and balance losses, and image priors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32
from lightning_condkd.types import BatchNormStatistics

TotalVariation = Literal["l2", "l1"]
ImageNorm = Literal["batch", "image"]


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy between the teacher's prediction and the target class, batch mean.

    Args:
        logits: ``(N, K)``.
        labels: target classes, ``(N,)`` int64.

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
    r"""Return the distance between batch and running statistics, summed over all BatchNorm layers.

    It is :math:`\sum_l \|\mu_l - \hat\mu_l\|_2 + \|\sigma^2_l - \hat\sigma^2_l\|_2` with plain norms: neither squared
    nor divided by the number of channels. The gradient at zero distance is zero. With several processes each rank uses
    its own batch statistics.

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
    """Return the records with batch statistics mixed with their average over earlier rounds.

    Each becomes ``(1 - momentum) * batch + momentum * average``. The average is a constant, so gradients are scaled by
    ``1 - momentum``.

    Args:
        statistics: one record per layer, of C channels each.
        mean_ema: average of the batch means, ``(C,)`` for each layer.
        variance_ema: average of the batch variances, ``(C,)`` for each layer.
        momentum: weight of the average, in [0, 1].

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


def total_variation(images: Tensor, form: TotalVariation = "l2") -> Tensor:
    r"""Return the differences of neighbouring pixels in four directions: right, down and both diagonals.

    With :math:`d_k` the differences of the whole batch in direction k, ``l2`` is :math:`\sum_k \|d_k\|_2`, which grows
    with the square root of batch size and area. ``l1`` is :math:`\sum_k \mathrm{mean} |d_k|`, which depends on
    neither. The gradient of ``l2`` at constant images is zero.

    Args:
        images: ``(N, C, H, W)``, in any units; normalised pixels in DeepInversion.
        form: ``l2`` or ``l1``.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the form is unknown.

    Example:
        >>> image = torch.tensor([[[[0.0, 3.0], [0.0, 3.0]]]])
        >>> total_variation(image).round(decimals=3), total_variation(image, "l1")
        (tensor(10.2430), tensor(9.))

    References:
        Yin et al.: "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", arXiv 1912.08795; its code.
    """
    if form not in ("l2", "l1"):
        raise ValueError(f"form of the total variation: expected 'l2' or 'l1', got {form!r}")
    x = at_least_float32(images)
    right, down = x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]
    falling, rising = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., 1:, :-1]
    differences = (right, down, falling, rising)
    sizes = [torch.linalg.vector_norm(d) if form == "l2" else d.abs().mean() for d in differences]
    return torch.stack(sizes).sum()


def image_norm(images: Tensor, form: ImageNorm = "batch") -> Tensor:
    r"""Return the Euclidean norm of images.

    Args:
        images: ``(N, C, H, W)``, in any units; normalised pixels in DeepInversion.
        form: ``batch`` for the norm of the batch as one vector, ``image`` for the mean of the images' norms.

    Returns:
        A scalar in float32 at least. Its gradient at zero is zero.

    Raises:
        ValueError: if the form is unknown.

    Example:
        >>> images = torch.tensor([3.0, 4.0]).view(2, 1, 1, 1)
        >>> image_norm(images), image_norm(images, "image")
        (tensor(5.), tensor(3.5000))

    References:
        Yin et al.: "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", arXiv 1912.08795; its code
        has ``batch`` for CIFAR-10 and ``image`` for ImageNet.
    """
    if form not in ("batch", "image"):
        raise ValueError(f"form of the image norm: expected 'batch' or 'image', got {form!r}")
    norms: Tensor = torch.linalg.vector_norm(at_least_float32(images).flatten(1), dim=1)
    return torch.linalg.vector_norm(norms) if form == "batch" else norms.mean()


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

    Its minimum, :math:`-\log K`, is reached where the mean prediction is uniform over the classes. With several
    processes the mean is over each rank's own batch.

    Args:
        logits: ``(N, K)``.
        log10: whether the logarithm is to base 10, as in the code of DAFL and PRE-DFKD. The code of DataFree has the
            natural logarithm, which is 2.303 times as large.

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
    # The mean is computed from logarithms, so that a class that no sample predicts has a finite gradient.
    logarithm = F.log_softmax(at_least_float32(logits), dim=1).logsumexp(0) - math.log(len(logits))
    loss = (logarithm.exp() * logarithm).sum()
    return loss / math.log(10) if log10 else loss
