"""Distances between the distributions of synthetic and condensed features, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32


def class_weighted_mean(distances: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of distances of classes, weighted by the number of samples of each class.

    Args:
        distances: one for each class, ``(K,)``; those of classes without a sample do not count, nor their gradient.
        labels: classes of the samples, ``(N,)`` int64.

    Returns:
        A scalar.

    Example:
        >>> class_weighted_mean(torch.tensor([1.0, 4.0, torch.nan]), torch.tensor([0, 0, 1]))
        tensor(2.)
    """
    counts = torch.bincount(labels, minlength=len(distances)).to(distances.dtype)
    return (torch.where(counts > 0, distances, 0.0) * counts).sum() / counts.sum()


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distances of all pairs of rows, ``(N, M)``.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.

    Example:
        >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([[25.,  1.]])
    """
    middle = b.detach().mean(0)  # of features far from the origin the differences would be lost in rounding
    a, b = a - middle, b - middle
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)


def gaussian_kernel(squared: Tensor, bandwidths: Sequence[float]) -> Tensor:
    r"""Return the sum of Gaussian kernels, :math:`\sum_\sigma \exp(-d^2 / 2\sigma^2)`.

    Args:
        squared: squared distances, of any shape.
        bandwidths: the values of :math:`\sigma`.
    """
    return torch.stack([torch.exp(-squared / (2 * sigma**2)) for sigma in bandwidths]).sum(0)


def class_mmd(
    synthetic: Tensor,
    labels: Tensor,
    condensed: Tensor,
    condensed_labels: Tensor,
    num_classes: int,
    bandwidths: Sequence[float] = (0.1, 1.0, 5.0, 10.0),
) -> Tensor:
    r"""Return the squared maximum mean discrepancy (MMD) of every class, with a sum of Gaussian kernels.

    The estimator counts a sample's kernel with itself, except for a class with equally many synthetic and condensed
    samples, more than one, as in the code of PGDI. A negative estimate counts as 0 and has no gradient.

    Args:
        synthetic: features, ``(N, D)``.
        labels: their classes, ``(N,)`` int64.
        condensed: features, ``(M, D)``.
        condensed_labels: their classes, ``(M,)`` int64.
        num_classes: number of classes K.
        bandwidths: standard deviations of the kernels (code of PGDI).

    Returns:
        ``(K,)`` in float32 at least; 0 for a class without synthetic or without condensed samples.

    Example:
        >>> same = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> class_mmd(same, torch.tensor([0, 1]), same, torch.tensor([0, 0]), num_classes=2, bandwidths=[1.0])
        tensor([0.3161, 0.0000])

    References:
        Gretton et al.: "A Kernel Two-Sample Test", JMLR 2012; kernels and estimator of the code of PGDI, "Prior-Guided
        Deep Inversion for Few-Shot Knowledge Distillation".
    """
    x, y = at_least_float32(synthetic), at_least_float32(condensed)
    sides = [F.one_hot(one, num_classes).to(x.dtype) for one in (labels, condensed_labels)]
    n, m = (side.sum(0) for side in sides)
    apart = (n == m) & (n > 1)
    within = [
        _within(part, side, count, bandwidths, apart) for part, side, count in zip((x, y), sides, (n, m), strict=True)
    ]
    kernel = gaussian_kernel(squared_distances(x, y), bandwidths)
    across = ((sides[0].T @ kernel) * sides[1].T).sum(1) / (n * m).clamp(min=1)
    return torch.where(n * m > 0, within[0] + within[1] - 2 * across, 0.0).clamp(min=0)


def _within(x: Tensor, side: Tensor, count: Tensor, bandwidths: Sequence[float], apart: Tensor) -> Tensor:
    """Return the mean kernel of the pairs of each class, without a sample's pair with itself where ``apart``."""
    itself = torch.eye(len(x), dtype=x.dtype, device=x.device)
    kernel = gaussian_kernel(squared_distances(x, x) * (1 - itself), bandwidths)
    total = ((side.T @ kernel) * side.T).sum(1)
    without = (total - count * len(bandwidths)) / (count * (count - 1)).clamp(min=1)
    return torch.where(apart, without, total / count.square().clamp(min=1))


def class_mean_distance(
    synthetic: Tensor, labels: Tensor, condensed: Tensor, condensed_labels: Tensor, num_classes: int
) -> Tensor:
    """Return the squared Euclidean distance between the means of synthetic and condensed features of every class.

    Args:
        synthetic: features, ``(N, D)``.
        labels: their classes, ``(N,)`` int64.
        condensed: features, ``(M, D)``.
        condensed_labels: their classes, ``(M,)`` int64.
        num_classes: number of classes K.

    Returns:
        ``(K,)`` in float32 at least; 0 for a class without synthetic or without condensed samples.

    Example:
        >>> synthetic, condensed = torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0]])
        >>> class_mean_distance(synthetic, torch.tensor([0, 0]), condensed, torch.tensor([0]), num_classes=2)
        tensor([9., 0.])
    """
    means, counts = zip(
        *(_class_means(x, y, num_classes) for x, y in ((synthetic, labels), (condensed, condensed_labels))), strict=True
    )
    return torch.where(counts[0] * counts[1] > 0, (means[0] - means[1]).square().sum(1), 0.0)


def characteristic_distance(
    synthetic: Tensor,
    labels: Tensor,
    condensed: Tensor,
    condensed_labels: Tensor,
    num_classes: int,
    frequencies: Tensor,
    amplitude_share: float = 0.5,
) -> Tensor:
    r"""Return the distance between the empirical characteristic functions of every class.

    Features are divided by their norm. With the means :math:`\varphi(t)` of :math:`e^{i t \cdot f}` over the samples of
    a side and frequencies t, the distance is the mean over t of
    :math:`\sqrt{a (|\varphi_s| - |\varphi_c|)^2 + 2 (1 - a) (|\varphi_s| |\varphi_c| - \mathrm{Re}\, \varphi_s
    \bar\varphi_c)}`, the square root of the amplitude's and the phase's difference.

    Args:
        synthetic: features, ``(N, D)``.
        labels: their classes, ``(N,)`` int64.
        condensed: features, ``(M, D)``.
        condensed_labels: their classes, ``(M,)`` int64.
        num_classes: number of classes K.
        frequencies: ``(F, D)``, standard normal in the code of NCFM.
        amplitude_share: weight a of the amplitude (code of NCFM: 0.5).

    Returns:
        ``(K,)`` in float32 at least; 0 for a class without synthetic or without condensed samples.

    Example:
        >>> features, labels = torch.eye(2), torch.tensor([0, 1])
        >>> characteristic_distance(features, labels, features.flip(0), labels, 2, torch.tensor([[torch.pi, 0.0]]))
        tensor([1.4142, 1.4142])

    References:
        Wang et al.: "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", arXiv 2502.20653;
        its code.
    """
    sides = []
    for features, classes in ((synthetic, labels), (condensed, condensed_labels)):
        phases = F.normalize(at_least_float32(features), dim=1) @ frequencies.to(at_least_float32(features)).T
        means, counts = _class_means(torch.cat([phases.cos(), phases.sin()], dim=1), classes, num_classes)
        real, imaginary = means.chunk(2, dim=1)
        size = (real.square() + imaginary.square()).clamp(min=1e-12).sqrt()
        sides.append((real, imaginary, size, counts))
    (a, b, size_s, n), (c, d, size_c, m) = sides
    # As in the code of NCFM the phase's difference is at least 1e-12, so that the square root has a gradient.
    phase = (2 * (size_s * size_c - a * c - b * d)).clamp(min=1e-12)
    distance = (amplitude_share * (size_s - size_c).square() + (1 - amplitude_share) * phase).sqrt().mean(1)
    return torch.where(n * m > 0, distance, 0.0)


def _class_means(values: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the means of the classes, 0 for an empty one, and the counts."""
    side = F.one_hot(labels, num_classes).to(at_least_float32(values))
    counts = side.sum(0)
    return side.T @ at_least_float32(values) / counts.clamp(min=1)[:, None], counts


def class_prediction_divergence(
    logits: Tensor, labels: Tensor, class_predictions: Tensor, temperature: float
) -> Tensor:
    """Return the divergence of predictions from the mean prediction for condensed samples of their class.

    Args:
        logits: of synthetic samples, ``(N, K)``.
        labels: their classes, ``(N,)`` int64.
        class_predictions: mean probabilities of each class at the same temperature, ``(K, K)``.
        temperature: temperature of the predictions.

    Returns:
        The mean over the samples, a scalar.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> class_prediction_divergence(logits, torch.tensor([1]), (logits / 2).softmax(1).repeat(2, 1), 2.0).abs() < 1e-6
        tensor(True)
    """  # noqa: E501 - the example
    log_predictions = F.log_softmax(at_least_float32(logits) / temperature, dim=1)
    return F.kl_div(log_predictions, class_predictions[labels].to(log_predictions), reduction="batchmean")


def nearest_in_class(values: Tensor, labels: Tensor, condensed: Tensor, condensed_labels: Tensor) -> Tensor:
    """Return the mean squared distance to the nearest condensed sample of the same class.

    Args:
        values: features or logits, ``(N, D)``.
        labels: their classes, ``(N,)`` int64, each with a condensed sample.
        condensed: the same of condensed samples, ``(M, D)``.
        condensed_labels: their classes, ``(M,)`` int64.

    Example:
        >>> condensed, classes = torch.tensor([[0.0], [3.0], [5.0]]), torch.tensor([0, 1, 1])
        >>> nearest_in_class(torch.tensor([[4.5], [1.0]]), torch.tensor([1, 0]), condensed, classes)
        tensor(0.6250)
    """
    squared = squared_distances(at_least_float32(values), at_least_float32(condensed))
    other = labels[:, None] != condensed_labels
    return squared.masked_fill(other, torch.inf).amin(1).mean()
