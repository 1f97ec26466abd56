"""Matching distances of condensation: between class means of embeddings, and between gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_condkd.precision import at_least_float32

GradientDistance = Literal["layerwise", "mse", "cosine"]
NORM_EPSILON = 1e-6


def class_means(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean embedding of each class.

    Args:
        embeddings: ``(N, D)``.
        labels: classes of the rows, ``(N,)`` int64.
        num_classes: number of classes K.

    Returns:
        ``(K, D)`` in float32 at least; the row of a class without samples is NaN.

    Example:
        >>> import torch
        >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), num_classes=2)
        tensor([[2.],
                [5.]])
    """
    embeddings = at_least_float32(embeddings)
    sums = embeddings.new_zeros(num_classes, embeddings.shape[1]).index_add(0, labels, embeddings)
    counts = embeddings.new_zeros(num_classes).index_add(0, labels, embeddings.new_ones(len(labels)))
    return sums / counts[:, None]


def mean_embedding_distance(real_means: Tensor, synthetic_means: Tensor) -> Tensor:
    """Return the squared L2 distance between class-mean embeddings, summed over the classes.

    It is the loss of distribution matching. It takes means, so that the real means can be computed in chunks and
    without a graph. Both sides must contain every class, see :func:`class_means`.

    Args:
        real_means: ``(K, D)``.
        synthetic_means: ``(K, D)``.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> mean_embedding_distance(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
        tensor(26.)

    References:
        Zhao and Bilen: "Dataset Condensation with Distribution Matching", arXiv 2110.04181.
    """
    if real_means.shape != synthetic_means.shape:
        raise ValueError(
            f"expected real_means and synthetic_means of one shape (classes, embedding size), got "
            f"{tuple(real_means.shape)} and {tuple(synthetic_means.shape)}; compute both with the same num_classes."
        )
    return (at_least_float32(real_means) - at_least_float32(synthetic_means)).square().sum()


def gradient_distance(
    real: Sequence[Tensor], synthetic: Sequence[Tensor], kind: GradientDistance = "layerwise"
) -> Tensor:
    """Return the distance between the gradients of a network's parameters on real and on synthetic images.

    ``layerwise`` is the loss of gradient matching: 1 - cosine for each output unit, summed over the units of a layer
    and over the layers. The gradient of a convolution ``(out, in, k, k)`` is taken as ``(out, in * k * k)``, that of a
    linear layer as ``(out, in)``. One-dimensional parameters (biases, scale and shift of most norms) add nothing.

    As in the official code, 1e-6 is added to the product of the two norms in the denominator. So a unit whose gradient
    is zero on one side counts as 1.

    Args:
        real: one gradient for each parameter.
        synthetic: likewise, in the same order.
        kind: ``layerwise``; ``mse``, the sum of squared differences of all parameters; or ``cosine``, 1 - cosine of all
            parameters as one vector. The last two include one-dimensional parameters, as in the official code.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the shapes differ, or the kind is unknown.

    Example:
        >>> real, synthetic = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, 0.0]])
        >>> bias = torch.ones(2)
        >>> [round(float(gradient_distance([real, bias], [synthetic, bias], kind)), 3) for kind in ("layerwise", "mse")]
        [1.0, 3.0]

    References:
        Zhao et al.: "Dataset Condensation with Gradient Matching", arXiv 2006.05929 (and its code).
    """
    shapes = [[tuple(gradient.shape) for gradient in side] for side in (real, synthetic)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"expected real and synthetic gradients of the same shapes, got {shapes[0]} and {shapes[1]}; "
            "take both from the same parameters of one network"
        )
    pairs = [(at_least_float32(r), at_least_float32(s)) for r, s in zip(real, synthetic, strict=True)]
    match kind:
        case "layerwise":
            return torch.stack([_angles(r.flatten(1), s.flatten(1)).sum() for r, s in pairs if r.dim() > 1]).sum()
        case "mse":
            return torch.stack([(r - s).square().sum() for r, s in pairs]).sum()
        case "cosine":
            whole_real, whole_synthetic = (torch.cat([g.flatten() for g in side]) for side in zip(*pairs, strict=True))
            return _angles(whole_real, whole_synthetic)
    raise ValueError(f"kind: expected 'layerwise', 'mse' or 'cosine', got {kind!r}")


def _angles(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return 1 - cosine over the last dimension."""
    norms = torch.linalg.vector_norm(real, dim=-1) * torch.linalg.vector_norm(synthetic, dim=-1)
    angles: Tensor = 1 - (real * synthetic).sum(-1) / (norms + NORM_EPSILON)
    return angles
