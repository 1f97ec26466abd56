"""Results of an evaluation: accuracies by network and seed, their mean and standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error


class Spread(NamedTuple):
    """Mean and sample standard deviation (n - 1) over runs.

    Args:
        mean: the mean.
        std: the standard deviation; ``None`` for a single run.
    """

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values.

        Args:
            values: one for each run.

        Example:
            >>> Spread.of([1.0, 3.0]), Spread.of([2.0]).std
            (Spread(mean=2.0, std=1.4142135623730951), None)
        """
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


class Trained(NamedTuple):
    """Scores of networks that were trained in one pass, JSON values only.

    Args:
        accuracies: for each network, its accuracy at each test.
        calibration_errors: calibration error of the last weights of each network.
    """

    accuracies: list[list[float]]
    calibration_errors: list[float]


@dataclass(frozen=True)
class Evaluation:
    """Scores of the networks of one architecture, as shares, not percent.

    Args:
        epochs: numbers of epochs after which they were tested; the last is the end of training.
        accuracies: accuracy at each of these tests, for each run.
        calibration_errors: expected calibration error of the last weights of each run: 15 bins of equal width, the top
            class only.
    """

    epochs: tuple[int, ...]
    accuracies: tuple[tuple[float, ...], ...]
    calibration_errors: tuple[float, ...]

    @property
    def last(self) -> tuple[float, ...]:
        """Accuracy of the last weights of each run."""
        return tuple(run[-1] for run in self.accuracies)

    @property
    def best(self) -> tuple[float, ...] | None:
        """Highest accuracy of each run over all tests, thus chosen on the test images; ``None`` with a single test."""
        return tuple(max(run) for run in self.accuracies) if len(self.epochs) > 1 else None

    def record(self) -> dict[str, Any]:
        """Return all numbers, JSON values only."""
        figures = {"last": self.last, "best": self.best, "calibration_error": self.calibration_errors}
        spreads = {name: None if values is None else Spread.of(values)._asdict() for name, values in figures.items()}
        return {
            **spreads,
            "epochs": list(self.epochs),
            "accuracies": [list(run) for run in self.accuracies],
            "calibration_errors": list(self.calibration_errors),
        }


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error of the top class, in 15 bins of equal width.

    Args:
        logits: ``(M, K)``.
        labels: classes, ``(M,)`` int64.

    Example:
        >>> import torch
        >>> sure = torch.tensor([[50.0, 0.0], [50.0, 0.0]])
        >>> calibration_error(sure, torch.tensor([0, 1]))
        0.5

    References:
        Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599.
    """
    # If rounding exceeded 1, torchmetrics would treat the probabilities as logits.
    probabilities = logits.softmax(1).clamp(max=1)
    return float(multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=15, norm="l1"))
