"""Checks of the mean and std that a user gives for the channels of images."""

from __future__ import annotations

import math
from collections.abc import Sequence


def channel_values(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """Return the mean or std of each channel as plain numbers.

    Args:
        name: ``mean`` or ``std``.
        values: one number for each channel, in the units of [0, 1].

    Raises:
        ValueError: if they are no such numbers, a mean is not in [0, 1], or a std is not above 0 and at most 1.

    Example:
        >>> channel_values("std", [0.25, 1])
        (0.25, 1.0)
        >>> channel_values("mean", [125.3, 123.0, 113.9])
        Traceback (most recent call last):
        ValueError: mean: expected values in the units of [0, 1], got (125.3, 123.0, 113.9): divide by 255 what was
        measured on pixels of 0 to 255
    """
    numbers = _numbers(name, values)
    if name == "std" and min(numbers) <= 0:
        raise ValueError(f"std: expected std above 0 in the units of [0, 1], got {numbers}: a channel must vary")
    if not all(0 <= number <= 1 for number in numbers):
        raise ValueError(
            f"{name}: expected values in the units of [0, 1], got {numbers}: divide by 255 what was measured on "
            "pixels of 0 to 255"
        )
    return numbers


def check_normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and std of each channel as plain numbers, if given.

    Args:
        mean: see :func:`channel_values`.
        std: likewise.

    Raises:
        ValueError: see :func:`channel_values`; also if they differ in length.
    """
    means = None if mean is None else channel_values("mean", mean)
    deviations = None if std is None else channel_values("std", std)
    if means is not None and deviations is not None and len(means) != len(deviations):
        raise ValueError(
            f"expected one mean and one std for each channel, got {len(means)} and {len(deviations)} values"
        )
    return means, deviations


def _numbers(name: str, values: Sequence[float]) -> tuple[float, ...]:
    try:
        numbers = () if isinstance(values, (str, bytes)) else tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"{name}: expected a finite number for each channel, got {values!r}: give, for example, "
            "[0.5] for grey images or [0.5, 0.5, 0.5] for colour"
        )
    return numbers
