"""t-SNE of embeddings: points in the plane for pictures."""

from __future__ import annotations

from typing import Any, cast

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from lightning_condkd.precision import at_least_float32

FEWEST = 4


def tsne(embeddings: Tensor, perplexity: float = 30.0, seed: int = 0) -> Tensor:
    """Return points in the plane whose neighbors are those of the embeddings, by scikit-learn's t-SNE.

    It starts from the first two principal components and runs on one thread, so equal arguments give equal points on a
    machine. Only neighborhoods have a meaning: distances between clusters and their sizes have none.

    Args:
        embeddings: ``(N, D)``, floating point.
        perplexity: effective number of neighbors (scikit-learn's default); lowered to a third of N - 1 for few rows.
        seed: seed of the principal components.

    Returns:
        ``(N, 2)`` float32 on the CPU.

    Raises:
        ValueError: if there are fewer than four rows, or they are not finite or all equal.

    Example:
        >>> clusters = torch.cat([torch.randn(20, 3), torch.randn(20, 3) + 50])
        >>> points = tsne(clusters)
        >>> points.shape, bool(torch.cdist(points[:20], points[20:]).min() > 1)
        (torch.Size([40, 2]), True)

    References:
        van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008.
    """
    from sklearn.manifold import TSNE  # takes a second, also for commands that do not use it

    rows = _checked(embeddings)
    if rows.shape[1] == 1:  # two principal components need two values
        rows = torch.cat([rows, torch.zeros_like(rows)], 1)
    method = cast(Any, TSNE)(perplexity=min(perplexity, (len(rows) - 1) / 3), init="pca", random_state=seed)
    with cast(Any, threadpool_limits)(1):
        points = method.fit_transform(rows.numpy())
    return torch.from_numpy(points).float()


def _checked(embeddings: Tensor) -> Tensor:
    if embeddings.dim() != 2 or not embeddings.is_floating_point() or len(embeddings) < FEWEST:
        raise ValueError(
            f"t-SNE: expected floating point embeddings (N, D) of at least {FEWEST} images, got "
            f"{embeddings.dtype} {tuple(embeddings.shape)}: give more images"
        )
    rows = at_least_float32(embeddings.detach()).cpu()
    if not bool(rows.isfinite().all()):
        raise ValueError("t-SNE: expected finite embeddings, got NaN or infinity: check the network and the images")
    if bool((rows == rows[0]).all()):
        raise ValueError("t-SNE: all embeddings are equal, so there is nothing to show: check the network's weights")
    return rows
