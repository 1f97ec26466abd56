"""Matching of standardised logits, and the gradient penalty of WGAN-GP, number by number."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _standardized(row: list[float], eps: float = 1e-7) -> list[float]:
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / (len(row) - 1)
    return [(value - mean) / (math.sqrt(variance) + eps) for value in row]


def _probabilities(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def _class_means(rows: list[list[float]], labels: list[int]) -> list[list[float]]:
    means = []
    for label in sorted(set(labels)):
        chosen = [row for row, own in zip(rows, labels, strict=True) if own == label]
        means.append([sum(column) / len(chosen) for column in zip(*chosen, strict=True)])
    return means


def self_distillation_loss(
    real: Tensor, synthetic: Tensor, labels: Tensor, temperature: float, standardize: bool, pairing: str, distance: str
) -> float:
    sides = [real.tolist(), synthetic.tolist()]
    if standardize:
        sides = [[_standardized(row) for row in side] for side in sides]
    if pairing == "class_mean":
        sides = [_class_means(side, labels.tolist()) for side in sides]
    total, terms = 0.0, 0
    for real_row, synthetic_row in zip(*sides, strict=True):
        p, q = _probabilities(real_row, temperature), _probabilities(synthetic_row, temperature)
        for a, b in zip(p, q, strict=True):
            total += a * math.log(a / b) if distance == "kl" else (math.log(a) - math.log(b)) ** 2
            terms += 1
    return temperature**2 * total / (len(sides[0]) if distance == "kl" else terms)


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, synthetic: Tensor, mix: Tensor) -> float:
    """By finite differences: one pixel of one image at a time."""
    step, total = 1e-5, 0.0
    for x, y, share in zip(real, synthetic, mix.tolist(), strict=True):
        point = share * x + (1 - share) * y
        squares = 0.0
        for pixel in range(point.numel()):
            shift = torch.zeros_like(point).view(-1)
            shift[pixel] = step
            above, below = (critic((point + sign * shift.view_as(point))[None]).item() for sign in (1, -1))
            squares += ((above - below) / (2 * step)) ** 2
        total += (math.sqrt(squares) - 1) ** 2
    return total / len(real)
