from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional.feature_generation import (
    contract,
    guided_noise,
    label_probabilities,
    mix_rows,
    ramped_decay,
    split_tokens,
)
from lightning_condkd.randomness import seeded_generator
from tests.reference import gendd as reference

GENERATOR = seeded_generator(0, "features")
FEATURES, CENTERS, LOGITS = (
    torch.randn(shape, generator=GENERATOR, dtype=torch.float64) for shape in ((6, 8), (3, 8), (6, 3))
)
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])


def test_tokens_are_neighboring_values_and_join_in_order() -> None:
    tokens = split_tokens(FEATURES, 2)
    assert tokens.shape == (6, 4, 2)
    for i in range(4):
        assert torch.equal(tokens[:, i], FEATURES[:, 2 * i : 2 * i + 2])
    assert torch.equal(tokens.flatten(1), FEATURES)
    assert split_tokens(FEATURES, 8).shape == (6, 1, 8)


@pytest.mark.parametrize("size", [0, 3, 16])
def test_a_width_that_does_not_divide_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"a divisor of 8, the width of the teacher's embedding, got {size}"):
        split_tokens(FEATURES, size)


def test_contracted_and_mixed_targets_are_the_formula() -> None:
    soft = LOGITS.softmax(1)
    partners, share = torch.tensor([3, 1, 0, 5, 2, 4]), 0.3
    ours = mix_rows(contract(FEATURES, soft, CENTERS, 0.7), partners, share)
    theirs = reference.targets(FEATURES, CENTERS, soft.tolist(), 0.7, partners.tolist(), share)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_hard_labels_are_one_hot_ones_and_their_weight_mixes_in_the_teacher() -> None:
    one_hot = torch.eye(3).double()[LABELS]
    assert torch.equal(label_probabilities(LABELS, LOGITS), label_probabilities(one_hot, LOGITS))
    assert torch.equal(label_probabilities(LABELS, LOGITS), one_hot)
    mixed = 0.25 * one_hot + 0.75 * LOGITS.softmax(1)
    torch.testing.assert_close(label_probabilities(LABELS, LOGITS, 0.25), mixed, rtol=0, atol=1e-15)
    assert torch.equal(label_probabilities(None, LOGITS, 0.0), LOGITS.softmax(1))


def test_squared_error_to_the_contracted_target_is_a_sum_of_two_tasks() -> None:
    """gendd.md, section 3: (1 - a) |p - f|^2 + a |p - c|^2 - a (1 - a) |f - c|^2."""
    predicted, a = torch.randn(6, 8, generator=GENERATOR, dtype=torch.float64), 0.9
    centers = CENTERS[LABELS]

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().sum(1)

    moved = contract(FEATURES, label_probabilities(LABELS, LOGITS), CENTERS, a)
    two = (1 - a) * distance(predicted, FEATURES) + a * distance(predicted, centers)
    expected = two - a * (1 - a) * distance(FEATURES, centers)
    torch.testing.assert_close(distance(predicted, moved), expected, rtol=0, atol=1e-12)


def test_strong_contraction_makes_the_teacher_say_the_label() -> None:
    centers = 3 * torch.eye(3, 8).double()
    moved = contract(FEATURES, label_probabilities(LABELS, LOGITS), centers, 0.9)
    assert torch.equal((moved @ centers.T).argmax(1), LABELS)
    assert not torch.equal((FEATURES @ centers.T).argmax(1), LABELS)


def test_guidance_of_one_is_the_condition_alone() -> None:
    first, second = torch.randn(2, 3, 4, generator=GENERATOR, dtype=torch.float64)
    torch.testing.assert_close(guided_noise(first, second, 1.0), first, rtol=0, atol=1e-15)
    torch.testing.assert_close(guided_noise(first, second, 2.0), 2 * first - second, rtol=0, atol=1e-15)


def test_the_decay_rate_follows_the_published_formula() -> None:
    steps, lowest = 11, 0.96
    for i in range(steps):
        expected = 0.999 - (0.999 - lowest) / 2 * (1 + math.cos(math.pi * i / (steps - 1)))
        assert ramped_decay(i / (steps - 1), lowest) == pytest.approx(expected, abs=1e-15)
