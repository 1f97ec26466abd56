"""Distances between synthetic and condensed features, written out from the formulas in plain loops."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def _squared(a: Sequence[float], b: Sequence[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def _kernel(a: Sequence[float], b: Sequence[float], bandwidths: Sequence[float]) -> float:
    return sum(math.exp(-_squared(a, b) / (2 * sigma * sigma)) for sigma in bandwidths)


def mmd(x: Rows, y: Rows, bandwidths: Sequence[float]) -> float:
    """PGDI's estimator of the squared MMD: without the diagonal where both samples have the same size above 1."""
    apart = len(x) == len(y) and len(x) > 1

    def within(rows: Rows) -> float:
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if not (apart and i == j)]
        return sum(_kernel(rows[i], rows[j], bandwidths) for i, j in pairs) / len(pairs)

    across = sum(_kernel(a, b, bandwidths) for a in x for b in y) / (len(x) * len(y))
    return max(0.0, within(x) + within(y) - 2 * across)


def mean_distance(x: Rows, y: Rows) -> float:
    means = [[sum(column) / len(rows) for column in zip(*rows, strict=True)] for rows in (x, y)]
    return _squared(*means)


def characteristic(x: Rows, y: Rows, frequencies: Rows, amplitude_share: float) -> float:
    """NCFM's distance: root of the weighted squared differences of amplitude and phase, mean over frequencies."""
    total = 0.0
    for frequency in frequencies:
        values = []
        for rows in (x, y):
            phases = []
            for row in rows:
                length = math.sqrt(sum(value * value for value in row))
                phases.append(sum(t * value / length for t, value in zip(frequency, row, strict=True)))
            values.append(sum(cmath.exp(1j * phase) for phase in phases) / len(phases))
        amplitude = (abs(values[0]) - abs(values[1])) ** 2
        phase = 2 * (abs(values[0]) * abs(values[1]) - (values[0] * values[1].conjugate()).real)
        total += math.sqrt(amplitude_share * amplitude + (1 - amplitude_share) * max(phase, 1e-12))
    return total / len(frequencies)


def by_class(rows: Rows, labels: Sequence[int], label: int) -> Rows:
    return [row for row, own in zip(rows, labels, strict=True) if own == label]


def softmax(logits: Sequence[float], temperature: float) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def logits_loss(synthetic: Rows, labels: Sequence[int], condensed: Rows, condensed_labels: Sequence[int]) -> float:
    """PGDI's term on logits: 0.997 KL from the class's mean prediction, 0.003 nearest squared distance."""
    total = 0.0
    for logits, label in zip(synthetic, labels, strict=True):
        own = by_class(condensed, condensed_labels, label)
        target = [sum(column) / len(own) for column in zip(*(softmax(row, 2.0) for row in own), strict=True)]
        prediction = softmax(logits, 2.0)
        divergence = sum(p * math.log(p / q) for p, q in zip(target, prediction, strict=True))
        total += 0.997 * divergence + 0.003 * min(_squared(logits, row) for row in own)
    return total / len(labels)
