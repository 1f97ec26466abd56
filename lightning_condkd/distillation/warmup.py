"""Weights that rise from 0 at the start of a run."""

from __future__ import annotations

PUBLISHED_WARMUP = 20 / 240
"""Share of the run that the code of DKD, LumiNet and KD++ takes on CIFAR-100: 20 of 240 epochs."""


def warmup_weight(progress: float, warmup: float) -> float:
    """Return a weight that rises linearly from 0 to 1.

    Args:
        progress: share of the run that is done, in [0, 1].
        warmup: share of the run after which the weight is 1; with 0 it is always 1.

    Raises:
        ValueError: if the warm-up is outside [0, 1].

    Example:
        >>> [warmup_weight(progress, warmup=0.5) for progress in (0.0, 0.25, 0.75)], warmup_weight(0.0, warmup=0.0)
        ([0.0, 0.5, 1.0], 1.0)
    """
    if not 0 <= warmup <= 1:
        raise ValueError(
            f"warmup: expected a share of the run, in [0, 1], got {warmup}: give epochs as epochs / max_epochs"
        )
    return min(progress / warmup, 1.0) if warmup else 1.0
