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
        channel_means: for each image the concatenated spatial means of the inputs of all BatchNorm layers, or of named
            modules, ``(N, D')`` with ``D'`` the sum of their widths; ``None`` unless requested.
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
        logits, embedding, maps, _, means = self
        embedding, means = (None if x is None else x[rows] for x in (embedding, means))
        return type(self)(logits[rows], embedding, tuple(m[rows] for m in maps), channel_means=means)


class LossTerms:
    """Named loss terms with their weights; :meth:`total` is the only place where they are multiplied.

    Args:
        terms: unweighted scalar terms, or functions that compute them: those of weight 0 are left out and not called.
        weights: one weight for each term.

    Raises:
        ValueError: if a term has no weight or a weight no term, or a term is no scalar tensor.

    Attributes:
        values: the terms that are there.
        weights: theirs.

    Example:
        >>> import torch
        >>> terms = {"class": torch.tensor(2.0), "bn": lambda: torch.tensor(1.0), "prior": lambda: torch.ones(())}
        >>> LossTerms(terms, {"class": 0.5, "bn": 10.0, "prior": 0.0}).total()
        tensor(11.)
    """

    __slots__ = ("values", "weights")

    def __init__(self, terms: Mapping[str, Tensor | Callable[[], Tensor]], weights: Mapping[str, float]) -> None:
        for what, name in _unpaired(terms, weights):
            raise ValueError(f"the loss term {name!r} has no {what}: give terms and weights the same names")
        there = {name: term for name, term in terms.items() if weights[name] or isinstance(term, Tensor)}
        self.values = {name: _scalar(name, term) for name, term in there.items()}
        self.weights = {name: weights[name] for name in there}

    def total(self) -> Tensor:
        """Return the weighted sum of the terms, 0 without any."""
        if not self.values:
            return torch.zeros(())
        return torch.stack([self.weights[name] * value for name, value in self.values.items()]).sum()

    def merge(self, other: LossTerms) -> LossTerms:
        """Return the terms of both.

        Args:
            other: terms of other names.

        Raises:
            ValueError: if both have a term of the same name.
        """
        for name in self.values.keys() & other.values.keys():
            raise ValueError(f"two loss terms are called {name!r}: rename one")
        return LossTerms({**self.values, **other.values}, {**self.weights, **other.weights})


def _unpaired(terms: Mapping[str, object], weights: Mapping[str, float]) -> list[tuple[str, str]]:
    lacking = [("weight", name) for name in terms if name not in weights]
    return lacking + [("value", name) for name in weights if name not in terms]


def _scalar(name: str, term: Tensor | Callable[[], Tensor]) -> Tensor:
    value = term if isinstance(term, Tensor) else term()
    if not isinstance(value, Tensor) or value.dim():
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the loss term {name!r}: expected a scalar tensor, got {got}; return its mean or sum")
    return value


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
        input_channels: widths of the inputs of the teacher's modules that the method names in ``channel_means_of``.
        class_names: names of the classes in the order of the labels; empty if unknown.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    embedding_size: int
    bn_channels: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    input_channels: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
