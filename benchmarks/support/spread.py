"""Center and spread of repeated measurements, rounded as result files hold them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def mean_and_deviation(values: Sequence[float], factor: float = 100, digits: int = 2) -> dict[str, float]:
    """Return mean and sample standard deviation, in percent by default."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(factor * statistics.mean(values), digits), "std": round(factor * deviation, digits)}


def quartiles(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Return median and quartiles; a single value is all three."""
    several = values if len(values) > 1 else [*values, *values]
    low, middle, high = statistics.quantiles(several, n=4, method="inclusive")
    return {"median": round(middle, digits), "q1": round(low, digits), "q3": round(high, digits)}
