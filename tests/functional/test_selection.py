from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional.selection import herding, k_center, k_means_nearest
from lightning_condkd.randomness import seeded_generator
from tests.reference import selection as reference

Choice = Callable[[Tensor, int], Tensor]


def k_means(embeddings: Tensor, count: int, seed: int = 0) -> Tensor:
    return k_means_nearest(embeddings, count, seeded_generator(seed, "k-means"))


CHOICES: dict[str, Choice] = {"herding": herding, "k_center": k_center, "k_means": k_means}
every_choice = pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)


def points(n: int, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=seeded_generator(seed, "points"), dtype=torch.float64)


def blobs(sizes: tuple[int, ...] = (4, 3, 2)) -> Tensor:
    """Groups of rows around (0, 0), (10, 0), (20, 0)."""
    centers = torch.tensor([[10.0 * group, 0.0] for group in range(len(sizes))], dtype=torch.float64)
    return centers.repeat_interleave(torch.tensor(sizes), 0) + 0.01 * points(sum(sizes), width=2, seed=1)


@pytest.mark.parametrize("seed", range(5))
def test_herding_and_k_centre_choose_what_plain_loops_choose(seed: int) -> None:
    embeddings = 3.0 + points(17, seed=seed)
    for count in (1, 6, 17):
        assert herding(embeddings, count).tolist() == reference.herding(embeddings.tolist(), count)
        assert k_center(embeddings, count).tolist() == reference.k_center(embeddings.tolist(), count)


@pytest.mark.parametrize("seed", range(5))
def test_k_means_on_groups_finds_the_best_of_all_partitions(seed: int) -> None:
    embeddings = blobs((4, 3, 1))[torch.randperm(8, generator=seeded_generator(seed, "order"))]
    assert k_means(embeddings, 3, seed).tolist() == reference.best_k_means_nearest(embeddings.tolist(), 3)


@pytest.mark.parametrize("seed", range(5))
def test_k_centre_covers_within_twice_the_least_radius(seed: int) -> None:
    embeddings = points(12, width=2, seed=seed)
    radius = reference.radius(embeddings.tolist(), k_center(embeddings, 4).tolist())
    assert radius <= 2 * reference.least_radius(embeddings.tolist(), 4)


def test_the_order_of_herding_and_k_centre_does_not_depend_on_the_count() -> None:
    embeddings = points(20)
    for choose in (herding, k_center):
        assert torch.equal(choose(embeddings, 12)[:5], choose(embeddings, 5))


def test_means_are_nearer_by_herding_and_rows_covered_by_k_centre_than_by_chance() -> None:
    embeddings = points(60)

    def radius(rows: Tensor) -> Tensor:
        return torch.cdist(embeddings, embeddings[rows]).min(1).values.max()

    def gap(rows: Tensor) -> Tensor:
        return (embeddings[rows].mean(0) - embeddings.mean(0)).norm()

    chance = [torch.randperm(60, generator=seeded_generator(seed, "chance"))[:8] for seed in range(50)]
    assert gap(herding(embeddings, 8)) < 0.5 * torch.stack([gap(rows) for rows in chance]).mean()
    assert radius(k_center(embeddings, 8)) < 0.9 * torch.stack([radius(rows) for rows in chance]).mean()


def test_the_generator_alone_decides_where_k_means_starts() -> None:
    embeddings, state = points(60), torch.random.get_rng_state()
    chosen = {tuple(k_means(embeddings, 8, seed).tolist()) for seed in range(4)}
    assert torch.equal(k_means(embeddings, 8), k_means(embeddings, 8))
    assert len(chosen) > 1
    assert torch.equal(torch.random.get_rng_state(), state)


@every_choice
def test_half_precision_around_it_changes_nothing(choose: Choice) -> None:
    """Distances are small differences of products."""
    embeddings = torch.rand(200, 200, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        chosen = choose(embeddings, 50)
    assert torch.equal(chosen, choose(embeddings, 50))


@every_choice
def test_copies_never_make_a_row_come_twice(choose: Choice) -> None:
    for embeddings in (torch.zeros(7, 3), points(2).repeat(4, 1), blobs((1, 1, 9)).repeat(2, 1)):
        for count in (2, len(embeddings)):
            rows = choose(embeddings, count)
            assert rows.dtype == torch.int64
            assert len(set(rows.tolist())) == count


def test_k_centre_and_k_means_take_different_images_before_copies() -> None:
    embeddings = points(3).repeat(4, 1)
    for choose in (k_center, k_means):
        assert len(set((choose(embeddings, 3) % 3).tolist())) == 3


@every_choice
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_point_type_will_do(choose: Choice, dtype: torch.dtype) -> None:
    embeddings = blobs().to(dtype).requires_grad_()
    assert sorted(choose(embeddings, 9).tolist()) == list(range(9))


@every_choice
def test_what_cannot_be_chosen_from_is_refused(choose: Choice) -> None:
    for count in (0, 6):
        with pytest.raises(ValueError, match=f"expected 1 to 5, the images of the class, got {count}: choose fewer"):
            choose(points(5), count)
    with pytest.raises(ValueError, match="flatten"):
        choose(torch.zeros(5, 2, 2), 1)
    with pytest.raises(ValueError, match="check the network"):
        choose(torch.tensor([[0.0], [float("nan")]]), 1)
