"""Helpers for messages to the user."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names as text for a message.

    Args:
        names: the names.
        most: largest number of names in the text.

    Example:
        >>> listed(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def duration(seconds: float) -> str:
    """Return a duration as text, with the accuracy of an estimate.

    Args:
        seconds: the duration in seconds.

    Example:
        >>> duration(0.4), duration(47), duration(170), duration(3900), duration(200000)
        ('1 s', '47 s', '3 min', '1 h 5 min', '2 d 8 h')
    """
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = max(1, round(seconds / 60))
    hours = round(seconds / 3600)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
