from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional.tsne import tsne
from lightning_condkd.randomness import seeded_generator


def clusters(count: int = 20, width: int = 6) -> Tensor:
    """Three groups of rows that are far from each other."""
    rows = torch.randn(3 * count, width, generator=seeded_generator(0, "rows"))
    return rows + 40 * torch.arange(3.0).repeat_interleave(count)[:, None]


def test_neighbors_stay_neighbors_and_clusters_apart() -> None:
    points = tsne(clusters(), perplexity=5.0)
    assert points.dtype == torch.float32
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert nearest.div(20, rounding_mode="floor").tolist() == torch.arange(3).repeat_interleave(20).tolist()


def test_equal_arguments_give_equal_points_on_any_number_of_threads() -> None:
    first = tsne(clusters(), seed=1)
    torch.set_num_threads(2)
    assert torch.equal(first, tsne(clusters(), seed=1))
    assert torch.equal(first, tsne(clusters().requires_grad_(), seed=1))


@pytest.mark.parametrize(("rows", "width"), [(4, 6), (9, 1)])
def test_few_rows_and_a_single_value_are_enough(rows: int, width: int) -> None:
    points = tsne(torch.randn(rows, width, generator=seeded_generator(0, "few")))
    assert points.shape == (rows, 2)
    assert bool(points.isfinite().all())


@pytest.mark.parametrize(
    ("embeddings", "said"),
    [
        (torch.rand(3, 4), r"at least 4 images, got torch.float32 \(3, 4\)"),
        (torch.ones(9, 4, dtype=torch.long), "floating point"),
        (torch.rand(9, 4).index_fill(0, torch.tensor([2]), torch.nan), "NaN or infinity"),
        (torch.ones(9, 4), "all embeddings are equal"),
    ],
)
def test_what_has_no_map_is_refused(embeddings: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tsne(embeddings)
