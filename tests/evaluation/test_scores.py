"""The scores of DD-Ranking against the formulas of its paper."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lightning_condkd.evaluation.scores import (
    ScoreOptions,
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from tests.reference import scores as reference

ACCURACIES = list(itertools.product((0.0, 0.3, 1.0), (0.1, 0.9), (0.2, 0.7), (0.25, 1.0)))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_the_scores_are_those_of_the_paper_and_in_the_unit_range(weight: float) -> None:
    for real, hard, own, random in ACCURACIES:
        lost, gain = hard_label_recovery(real, hard), improvement_over_random(own, random)
        score = label_robust_score(gain, lost, weight)
        assert score == pytest.approx(reference.label_robust(real, hard, own, random, weight), abs=1e-12)
        assert 0 <= score <= 1
        plain = improvement_over_random(real, hard)
        score = augmentation_robust_score(gain, plain, weight)
        assert score == pytest.approx(reference.augmentation_robust(own, random, real, hard, weight), abs=1e-12)
        assert 0 <= score <= 1


def test_percent_as_in_the_code_of_dd_ranking_leaves_the_unit_range() -> None:
    accuracies = (0.848, 0.448, 0.648, 0.448)  # HLR 40 points, IOR 20 points
    assert reference.label_robust_of_the_code(*accuracies, 0.5) == pytest.approx(-0.157, abs=1e-3)
    assert label_robust_score(0.2, 0.4) == pytest.approx(reference.label_robust(*accuracies, 0.5), abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of the two"),
        ({"full_accuracy": 0.8, "full_epochs": 2}, "give one of the two"),
        ({"full_accuracy": 84.8}, "expected a share from 0 to 1, got 84.8: divide percent by 100"),
        ({"full_accuracy": {"small": 0.8, "wide": -1.0}}, "expected a share from 0 to 1, got -1.0"),
        ({"full_epochs": 0}, "full_epochs: expected a positive number, got 0"),
        ({"full_epochs": 1, "label_weight": 1.5}, "label_weight: expected a weight from 0 to 1, got 1.5"),
        ({"full_epochs": 1, "augmentation_weight": -0.5}, "augmentation_weight: expected a weight"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreOptions(**options)
