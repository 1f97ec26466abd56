from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional.moments import (
    characteristic_distance,
    class_mean_distance,
    class_mmd,
    class_weighted_mean,
    nearest_in_class,
    squared_distances,
)
from lightning_condkd.randomness import seeded_generator
from tests.reference import moments as reference

CLASSES = 5  # 0: as many synthetic as condensed, 1: more, 2: fewer, 3: no synthetic, 4: no condensed
LABELS = torch.tensor([0, 1, 1, 2, 0, 1, 4])
CONDENSED_LABELS = torch.tensor([2, 0, 1, 2, 0, 3])
BANDWIDTHS = (0.5, 2.0)
FREQUENCIES = torch.randn(7, 3, generator=seeded_generator(0, "frequencies"), dtype=torch.float64)
Distance = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

DISTANCES: dict[str, tuple[Distance, Callable[[reference.Rows, reference.Rows], float]]] = {
    "mmd": (lambda *both: class_mmd(*both, BANDWIDTHS), lambda x, y: reference.mmd(x, y, BANDWIDTHS)),
    "mean": (class_mean_distance, reference.mean_distance),
    "characteristic": (
        lambda *both: characteristic_distance(*both, FREQUENCIES, 0.3),
        lambda x, y: reference.characteristic(x, y, FREQUENCIES.tolist(), 0.3),
    ),
}
every_distance = pytest.mark.parametrize("name", DISTANCES)


def _features() -> tuple[Tensor, Tensor]:
    generator = seeded_generator(0, "features")
    synthetic = torch.randn(len(LABELS), 3, generator=generator, dtype=torch.float64)
    return synthetic, torch.randn(len(CONDENSED_LABELS), 3, generator=generator, dtype=torch.float64) + 0.5


@every_distance
def test_distance_of_every_class_follows_its_formula(name: str) -> None:
    ours, formula = DISTANCES[name]
    synthetic, condensed = _features()
    found = ours(synthetic, LABELS, condensed, CONDENSED_LABELS, CLASSES)
    for label in (0, 1, 2):
        x = reference.by_class(synthetic.tolist(), LABELS.tolist(), label)
        y = reference.by_class(condensed.tolist(), CONDENSED_LABELS.tolist(), label)
        assert float(found[label]) == pytest.approx(formula(x, y), abs=1e-12)
        assert float(found[label]) > 0
    assert found[3:].tolist() == [0.0, 0.0]


@every_distance
def test_gradient_is_that_of_the_formula_and_spares_classes_without_a_partner(name: str) -> None:
    ours, _ = DISTANCES[name]
    synthetic, condensed = _features()
    synthetic.requires_grad_()
    distance = lambda x: ours(x, LABELS, condensed, CONDENSED_LABELS, CLASSES).sum()  # noqa: E731
    assert torch.autograd.gradcheck(distance, synthetic)
    (gradient,) = torch.autograd.grad(distance(synthetic), synthetic)
    moved = gradient.abs().sum(1) > 0
    assert moved.tolist() == [True] * 6 + [False]


@every_distance
def test_equal_samples_are_closer_than_others(name: str) -> None:
    ours, _ = DISTANCES[name]
    features, labels = torch.randn(6, 3, generator=seeded_generator(0, "features")), torch.tensor([0, 1, 2, 0, 1, 2])
    twice = torch.cat([features, features]), labels.repeat(2)
    same = ours(*twice, features, labels, 3)
    other = ours(*twice, features.roll(1, 0), labels, 3)
    assert float(same.max()) < 0.01 * float(other.min())


@pytest.mark.parametrize("name", ["mmd", "mean"])
def test_features_far_from_the_origin_keep_their_differences_in_single_precision(name: str) -> None:
    ours, _ = DISTANCES[name]
    synthetic, condensed = (one.float() + torch.tensor([300.0, -100.0, 200.0]) for one in _features())
    found = ours(synthetic, LABELS, condensed, CONDENSED_LABELS, CLASSES)
    exact = ours(synthetic.double(), LABELS, condensed.double(), CONDENSED_LABELS, CLASSES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-6)


def test_squared_distances_match_differences() -> None:
    synthetic, condensed = _features()
    expected = (synthetic[:, None] - condensed).square().sum(2)
    torch.testing.assert_close(squared_distances(synthetic, condensed), expected, rtol=0, atol=1e-12)


def test_weighted_mean_is_the_mean_over_samples() -> None:
    distances = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    assert float(class_weighted_mean(distances, LABELS)) == pytest.approx(float(distances[LABELS].mean()))


def test_nearest_looks_at_its_own_class_only() -> None:
    synthetic, condensed = _features()
    rows = LABELS < 3
    found = nearest_in_class(synthetic[rows], LABELS[rows], condensed, CONDENSED_LABELS)
    own = [
        min(float((x - y).square().sum()) for y in condensed[label == CONDENSED_LABELS])
        for x, label in zip(synthetic[rows], LABELS[rows], strict=True)
    ]
    assert float(found) == pytest.approx(sum(own) / len(own))
