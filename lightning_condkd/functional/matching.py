"""Distances between what a network sees in real and in synthetic images."""

from __future__ import annotations

from torch import Tensor

from lightning_condkd.functional.precision import at_least_float32


def class_means(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean embedding of each class.

    Args:
        embeddings: ``(N, D)``.
        labels: classes of the rows, ``(N,)`` int64.
        num_classes: number of classes K.

    Returns:
        ``(K, D)`` in float32 at least; the row of a class without a sample is NaN, so that it cannot pass as a mean.

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

    It is the loss of distribution matching. It takes means, so that those of the real side can be made in chunks and
    without a graph; both sides must hold every class, see :func:`class_means`.

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
            f"{tuple(real_means.shape)} and {tuple(synthetic_means.shape)}; make both with the same num_classes."
        )
    return (at_least_float32(real_means) - at_least_float32(synthetic_means)).square().sum()
