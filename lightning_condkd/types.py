"""Records exchanged between the stages: network outputs, loss terms, synthetic images, the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class BatchNormStatistics(NamedTuple):
    """Batch statistics of the input of one BatchNorm layer, and its running statistics.

    Args:
        mean: batch mean of the layer's input, ``(C,)``.
        variance: biased batch variance of the layer's input, ``(C,)``.
        running_mean: the layer's running mean, ``(C,)``.
        running_variance: the layer's running variance, ``(C,)``.
    """

    mean: Tensor
    variance: Tensor
    running_mean: Tensor
    running_variance: Tensor


class NetworkOutput(NamedTuple):
    """Outputs of one forward pass of an observed network.

    Args:
        logits: ``(N, K)``.
        embedding: input of the final linear layer, ``(N, D)``; ``None`` unless requested.
        maps: outputs of the requested inner modules, in the order of the request.
        bn: one record per BatchNorm layer; empty unless requested.
        channel_means: for each image the concatenated spatial means of the inputs of all BatchNorm layers, ``(N, D')``
            with ``D'`` the sum of their widths; ``None`` unless requested.
    """

    logits: Tensor
    embedding: Tensor | None = None
    maps: tuple[Tensor, ...] = ()
    bn: tuple[BatchNormStatistics, ...] = ()
    channel_means: Tensor | None = None

    def select(self, rows: Tensor) -> NetworkOutput:
        """Return the same record for a subset of the batch.

        Args:
            rows: index or boolean mask over the batch, ``(N,)``. Batch statistics are dropped, as they do not apply.
        """
        embedding, means = (None if x is None else x[rows] for x in (self.embedding, self.channel_means))
        return NetworkOutput(self.logits[rows], embedding, tuple(m[rows] for m in self.maps), channel_means=means)


class LossTerms(NamedTuple):
    """Named loss terms with their weights; :meth:`total` is the only place where they are multiplied.

    Args:
        values: unweighted scalar terms.
        weights: one weight for each term.

    Example:
        >>> import torch
        >>> LossTerms({"class": torch.tensor(2.0), "bn": torch.tensor(1.0)}, {"class": 0.5, "bn": 10.0}).total()
        tensor(11.)
    """

    values: Mapping[str, Tensor]
    weights: Mapping[str, float]

    @classmethod
    def of(cls, terms: Mapping[str, Callable[[], Tensor]], weights: Mapping[str, float]) -> LossTerms:
        """Compute the terms whose weight is not 0; the others are left out.

        Args:
            terms: what computes each.
            weights: one for each term.

        Example:
            >>> import torch
            >>> terms = {"class": lambda: torch.ones(()), "bn": lambda: torch.zeros(())}
            >>> LossTerms.of(terms, {"class": 2.0, "bn": 0.0}).total()
            tensor(2.)
        """
        weights = {name: weight for name, weight in weights.items() if weight}
        return cls({name: terms[name]() for name in weights}, weights)

    def total(self) -> Tensor:
        """Return the weighted sum of the terms, 0 without any."""
        if not self.values:
            return torch.zeros(())
        return torch.stack([self.weights[name] * value for name, value in self.values.items()]).sum()

    def merge(self, other: LossTerms) -> LossTerms:
        """Return the terms of both; names must differ."""
        return LossTerms({**self.values, **other.values}, {**self.weights, **other.weights})


class Synthetic(NamedTuple):
    """Synthetic images and the labels they were made for.

    Args:
        images: ``(N, C, H, W)``, pixels in the units of [0, 1].
        labels: target classes, ``(N,)`` int64; ``None`` if the method has none (the teacher's prediction is used).
    """

    images: Tensor
    labels: Tensor | None


class TaskSpec(NamedTuple):
    """Facts of the task that a stage needs to size its parameters.

    Args:
        image_shape: ``(C, H, W)`` in pixels.
        num_classes: number of classes K.
        embedding_size: width D of the teacher's penultimate embedding.
        bn_channels: widths of the teacher's BatchNorm layers in the order of execution; empty without any.
        mean: the teacher's mean of each channel, in the units of [0, 1]; empty for none.
        std: the teacher's standard deviation of each channel; empty for none.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    embedding_size: int
    bn_channels: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
