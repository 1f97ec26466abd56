"""Accuracies and mean losses of one or several validation or test loaders."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import lightning as L
import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_condkd.training.held_out import check_in_turn


class Scores:
    """Means over real images by name, for each loader; reading them resets them.

    Those of the first loader have the plain name, which monitors, the best accuracy and the baseline use. Those of the
    next loader are called ``val/accuracy/loader_1``.

    Args:
        num_classes: number of classes K.

    Example:
        >>> scores = Scores(num_classes=2)
        >>> logits, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
        >>> scores.add_accuracy("val/accuracy", 0, logits, labels)
        >>> scores.add_accuracy("val/accuracy", 1, logits[:1], labels[:1])
        >>> scores.pop()
        {'val/accuracy': tensor(0.5000), 'val/accuracy/loader_1': tensor(1.)}
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._metrics: dict[str, Metric] = {}

    def add_accuracy(self, name: str, loader: int, logits: Tensor, labels: Tensor) -> None:
        """Add a batch to a top-1 accuracy (micro average).

        Args:
            name: name of the accuracy.
            loader: index of the loader.
            logits: ``(N, K)``; N may be 0 on a rank.
            labels: classes ``(N,)``.
        """
        self._add(name, loader, lambda: MulticlassAccuracy(self.num_classes, average="micro"), logits, labels)

    def add_mean(self, name: str, loader: int, values: Tensor) -> None:
        """Add a batch to a mean over images.

        Args:
            name: name of the mean.
            loader: index of the loader.
            values: one for each image, ``(N,)``; N may be 0 on a rank.
        """
        self._add(name, loader, lambda: MeanMetric().set_dtype(torch.float32), values)

    def _add(self, name: str, loader: int, make: Callable[[], Metric], *batch: Tensor) -> None:
        key = f"{name}/loader_{loader}" if loader else name
        if key not in self._metrics:  # also for an empty batch: all ranks take part in reading a metric
            self._metrics[key] = make().to(batch[0].device)
        if len(batch[0]):
            self._metrics[key].update(*batch)

    def begin(self, trainer: L.Trainer) -> None:
        """Start an evaluation: delete the values of an earlier one that was interrupted.

        Args:
            trainer: the trainer, with its loaders set up.

        Raises:
            ValueError: if batches contain a part of each loader.
        """
        check_in_turn(trainer)
        self._metrics.clear()

    def pop(self) -> dict[str, Tensor]:
        """Return the means over all ranks since the last call."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was called before the ``update``")
            values = {name: metric.compute() for name, metric in self._metrics.items()}
        self._metrics.clear()  # created each time: tensors of inference mode cannot be used outside it
        return values
