"""Selection of the rows of a class by their embeddings: herding, k-centre and k-means."""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from lightning_condkd.precision import at_least_float32


def herding(embeddings: Tensor, count: int) -> Tensor:
    """Choose rows one by one so that the mean of the chosen rows stays as near as possible to the mean of all rows.

    The choice is greedy: each row is the best one given those before it, so the first n rows are the herding of n. Ties
    go to the first row.

    Args:
        embeddings: of the images of one class, ``(N, D)``.
        count: rows to choose.

    Returns:
        Different rows in the order of choice, ``(count,)`` int64, on the CPU.

    Raises:
        ValueError: if there are fewer rows, or the embeddings are not finite.

    Example:
        >>> herding(torch.tensor([[0.0], [1.0], [4.0], [7.0]]), 2)
        tensor([2, 1])

    References:
        Welling, "Herding Dynamical Weights to Learn", ICML 2009; in this form, with the mean of the chosen: Rebuffi et
        al., "iCaRL: Incremental Classifier and Representation Learning", arXiv 1611.07725.
    """
    centered = _centered(embeddings, count)
    norms = centered.square().sum(1)
    total = torch.zeros_like(centered[0])
    rows: list[int] = []
    for _ in range(count):
        # |total + x|^2 without the term common to all candidates.
        scores = norms + 2 * (centered @ total)
        scores[rows] = torch.inf
        rows.append(int(scores.argmin()))
        total += centered[rows[-1]]
    return torch.tensor(rows)


def k_center(embeddings: Tensor, count: int) -> Tensor:
    """Choose rows that cover the class: each is the one farthest from all rows before it.

    The first is the row nearest to the mean of all (our default; the method does not fix it). The largest distance from
    a row to its nearest chosen row is at most twice the smallest possible for this count.

    Args:
        embeddings: of the images of one class, ``(N, D)``.
        count: rows to choose.

    Returns:
        Different rows in the order of choice, ``(count,)`` int64, on the CPU.

    Raises:
        ValueError: if there are fewer rows, or the embeddings are not finite.

    Example:
        >>> k_center(torch.tensor([[0.0], [1.0], [4.0], [7.0]]), 3)
        tensor([2, 0, 3])

    References:
        Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; Sener and Savarese, "Active Learning
        for Convolutional Neural Networks: A Core-Set Approach", arXiv 1708.00489.
    """
    centered = _centered(embeddings, count)
    norms = centered.square().sum(1)
    rows = [int(norms.argmin())]
    nearest = torch.full_like(norms, torch.inf)
    while len(rows) < count:
        nearest = nearest.minimum(_squared_distances(centered, norms, rows[-1]))
        nearest[rows] = -1.0  # below every distance, so that a copy of a chosen row comes before the row itself
        rows.append(int(nearest.argmax()))
    return torch.tensor(rows)


def k_means_nearest(embeddings: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Cluster the rows and choose the one nearest to each centre.

    scikit-learn's Lloyd algorithm runs once until convergence. It starts from rows drawn by k-means++ with one
    candidate each, which is several times faster than scikit-learn's own start. It runs on one thread, because with
    more the order of summation changes the last digits. The centres choose in the order of their cluster sizes, largest
    first; each takes the nearest row that is not taken yet. So there are always enough rows, even if there are fewer
    distinct rows than centres.

    Args:
        embeddings: of the images of one class, ``(N, D)``.
        count: clusters, and rows to choose.
        generator: CPU generator for the starting centres.

    Returns:
        Different rows, the one of the largest cluster first, ``(count,)`` int64, on the CPU.

    Raises:
        ValueError: if there are fewer rows, or the embeddings are not finite.

    Example:
        >>> embeddings = torch.tensor([[0.0], [1.0], [2.0], [9.0], [9.5]])
        >>> k_means_nearest(embeddings, 2, torch.Generator().manual_seed(0))
        tensor([1, 3])

    References:
        Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007.
    """
    from sklearn.cluster import KMeans  # takes a second, also for commands that do not use it
    from sklearn.exceptions import ConvergenceWarning

    centered = _centered(embeddings, count).cpu()
    start = centered[_spread_rows(centered, count, generator)]
    with warnings.catch_warnings(), cast(Any, threadpool_limits)(1, user_api="openmp"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than centres: handled below
        found = cast(Any, KMeans)(count, init=start.numpy(), n_init=1).fit(centered.numpy())
    distances = torch.cdist(torch.from_numpy(found.cluster_centers_), centered)
    sizes = torch.bincount(torch.from_numpy(found.labels_).long(), minlength=count)
    rows: list[int] = []
    for center in sizes.argsort(descending=True, stable=True).tolist():
        distances[center, rows] = torch.inf
        rows.append(int(distances[center].argmin()))
    return torch.tensor(rows)


def _centered(embeddings: Tensor, count: int) -> Tensor:
    if embeddings.dim() != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"expected floating point embeddings (N, D), got {embeddings.dtype} {tuple(embeddings.shape)}: flatten them"
        )
    if not 1 <= count <= len(embeddings):
        raise ValueError(
            f"count: expected 1 to {len(embeddings)}, the images of the class, got {count}: choose fewer, or give more "
            "images"
        )
    if not bool(embeddings.isfinite().all()):
        raise ValueError("expected finite embeddings, got NaN or infinity: check the network and its normalisation")
    # Distances do not change by the shift, and are rounded less near the origin.
    embeddings = at_least_float32(embeddings.detach())
    return embeddings - embeddings.mean(0)


def _squared_distances(points: Tensor, norms: Tensor, row: int) -> Tensor:
    with torch.autocast(points.device.type, enabled=False):  # it would round products that are nearly the norms
        return (norms + norms[row] - 2 * (points @ points[row])).clamp(min=0)


def _spread_rows(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw rows as k-means++ does: the probability is proportional to the squared distance from the rows before."""
    norms = points.square().sum(1)
    nearest, free = torch.full_like(norms, torch.inf), torch.ones_like(norms)
    rows: list[int] = []
    chance = free
    while len(rows) < count:
        row = int(torch.multinomial(chance, 1, generator=generator))
        rows.append(row)
        free[row] = 0
        nearest = nearest.minimum(_squared_distances(points, norms, row))
        chance = nearest * free if bool((nearest * free).any()) else free
    return torch.tensor(rows)
