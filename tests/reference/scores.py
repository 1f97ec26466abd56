"""Scores of DD-Ranking as its paper defines them (arXiv 2505.13300, sections on LRS and ARS), on shares."""

from __future__ import annotations

import math


def normalized(value: float) -> float:
    """Linear in the exponential of the value: 0 at -1, and 1 at 1."""
    lowest, highest = math.exp(-1), math.exp(1)
    return (math.exp(value) - lowest) / (highest - lowest)


def label_robust(real_hard: float, condensed_hard: float, condensed_any: float, random_any: float, w: float) -> float:
    return normalized(w * (condensed_any - random_any) - (1 - w) * (real_hard - condensed_hard))


def augmentation_robust(
    condensed: float, random: float, condensed_plain: float, random_plain: float, gamma: float
) -> float:
    return normalized(gamma * (condensed - random) + (1 - gamma) * (condensed_plain - random_plain))


def label_robust_of_the_code(real_hard: float, condensed_hard: float, any_: float, random: float, w: float) -> float:
    """DD-Ranking 0.2.0, ddranking/metrics/soft_label.py, which passes accuracies in percent."""
    hlr, ior = 1.00 * (100 * real_hard - 100 * condensed_hard), 1.00 * (100 * any_ - 100 * random)
    return (math.exp(w * ior - (1 - w) * hlr) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
