"""Scores of DD-Ranking, which compare a condensed set with all real images and with as many random ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

LOWEST = math.exp(-1)


@dataclass(frozen=True)
class ScoreOptions:
    """What the scores of DD-Ranking need besides the rows of an evaluation.

    Args:
        full_accuracy: accuracy of the network trained on all real images, a share such as 0.848; for several networks
            a mapping such as ``{"ConvNet": 0.848, "ResNet": 0.93}``.
        full_epochs: in place of ``full_accuracy``, number of epochs for which networks are trained on all real training
            images, with hard labels and otherwise the recipe of the evaluation. This may take far longer than the rest.
        label_weight: weight of the improvement over random in the label-robust score (DD-Ranking 0.5).
        augmentation_weight: weight of the gain with augmentation in the augmentation-robust score (DD-Ranking 0.5).

    Raises:
        ValueError: if not exactly one of ``full_accuracy`` and ``full_epochs`` is given, or a value is out of range.

    Example:
        >>> ScoreOptions(full_accuracy=84.8)
        Traceback (most recent call last):
        ValueError: full_accuracy: expected a share from 0 to 1, got 84.8: divide percent by 100
    """

    full_accuracy: Mapping[str, float] | float | None = None
    full_epochs: int | None = None
    label_weight: float = 0.5
    augmentation_weight: float = 0.5

    def __post_init__(self) -> None:
        if (self.full_accuracy is None) == (self.full_epochs is None):
            raise ValueError(
                "scores: expected the accuracy of networks trained on all real images as full_accuracy, a share such "
                "as 0.848, or full_epochs to train them; give one of the two"
            )
        if self.full_epochs is not None and self.full_epochs < 1:
            raise ValueError(f"full_epochs: expected a positive number, got {self.full_epochs}")
        given = self.full_accuracy
        for value in given.values() if isinstance(given, Mapping) else [] if given is None else [given]:
            if not 0 <= value <= 1:
                raise ValueError(f"full_accuracy: expected a share from 0 to 1, got {value}: divide percent by 100")
        for name in ("label_weight", "augmentation_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a weight from 0 to 1, got {getattr(self, name)}; 0.5 is usual")


def hard_label_recovery(full: float, hard: float) -> float:
    """Return HLR, the accuracy that hard labels on the set lose against all real images; lower is better.

    Args:
        full: accuracy of a network trained on all real images with hard labels, a share.
        hard: accuracy of one trained on the condensed set with hard labels, a share.

    Example:
        >>> hard_label_recovery(0.75, 0.5)
        0.25
    """
    return full - hard


def improvement_over_random(condensed: float, random: float) -> float:
    """Return IOR, the accuracy gained over as many random real images; higher is better.

    Args:
        condensed: accuracy of a network trained on the condensed set, with any kind of labels, a share.
        random: accuracy of one trained in the same way on random real images of the same number, a share.

    Example:
        >>> improvement_over_random(0.5, 0.25)
        0.25
    """
    return condensed - random


def label_robust_score(improvement: float, recovery: float, weight: float = 0.5) -> float:
    """Return LRS, which is high if a set is better than random images and needs no soft labels for it.

    It is ``(exp(a) - exp(-1)) / (exp(1) - exp(-1))`` for ``a = weight * improvement - (1 - weight) * recovery``, so it
    is in [0, 1] for accuracies as shares. The code of DD-Ranking 0.2.0 inserts accuracies in percent into this formula,
    so its numbers leave [0, 1] and cannot be compared with these.

    Args:
        improvement: :func:`improvement_over_random` of shares.
        recovery: :func:`hard_label_recovery` of shares.
        weight: weight of the improvement (DD-Ranking 0.5).

    Example:
        >>> round(label_robust_score(0.0, 0.0), 3), label_robust_score(1.0, -1.0), label_robust_score(-1.0, 1.0)
        (0.269, 1.0, 0.0)

    References:
        Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", arXiv 2505.13300, and the code
        NUS-HPC-AI-Lab/DD-Ranking.
    """
    return _to_unit_range(weight * improvement - (1 - weight) * recovery)


def augmentation_robust_score(augmented: float, plain: float, weight: float = 0.5) -> float:
    """Return ARS, which is high if a set is better than random images with and without augmentation.

    Of shares, not of percent: see :func:`label_robust_score`, whose formula and source it has.

    Args:
        augmented: :func:`improvement_over_random` of shares, with augmentation.
        plain: the same of networks trained without augmentation.
        weight: weight of the first (DD-Ranking 0.5).

    Example:
        >>> round(augmentation_robust_score(0.0, 0.0), 3), augmentation_robust_score(1.0, 1.0)
        (0.269, 1.0)
    """
    return _to_unit_range(weight * augmented + (1 - weight) * plain)


def _to_unit_range(gain: float) -> float:
    return (math.exp(gain) - LOWEST) / (math.e - LOWEST)
