"""The few records that travel between the rooms of the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Phase = Literal["synthesise", "distil", "idle"]


class BatchNormStatistics(NamedTuple):
    """Statistics of the input of one BatchNorm layer beside the running ones.

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
    """What one forward pass of an observed network yields.

    Args:
        logits: ``(N, K)``.
        embedding: input of the final linear layer, ``(N, D)``; ``None`` unless asked for.
        maps: outputs of the requested inner modules, in the order of the request.
        bn: one record per BatchNorm layer; empty unless asked for.
        channel_means: for each image the spatial means of the inputs of all BatchNorm layers in a row, ``(N, D')`` with
            ``D'`` the sum of their widths; ``None`` unless asked for.
    """

    logits: Tensor
    embedding: Tensor | None = None
    maps: tuple[Tensor, ...] = ()
    bn: tuple[BatchNormStatistics, ...] = ()
    channel_means: Tensor | None = None

    def select(self, rows: Tensor) -> NetworkOutput:
        """Return the same record for a subset of the batch.

        Args:
            rows: index or boolean mask over the batch, ``(N,)``. Batch statistics are dropped: they are no longer true.
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
        labels: target classes, ``(N,)`` int64; ``None`` where the method has none (the teacher's prediction is used).
    """

    images: Tensor
    labels: Tensor | None


class Spec(NamedTuple):
    """What a stage must know of the task to size its parameters.

    Args:
        image_shape: ``(C, H, W)`` in pixels.
        num_classes: number of classes K.
        embedding_size: width D of the teacher's penultimate embedding.
        bn_channels: widths of the teacher's BatchNorm layers in the order of execution; empty without any.
        mean: what the teacher subtracts from each channel, in the units of [0, 1]; empty for nothing.
        std: what the teacher divides each channel by; empty for nothing.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    embedding_size: int
    bn_channels: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class Unit(NamedTuple):
    """One training step: one unit of one phase.

    Args:
        round: how many rounds (epochs) came before.
        block: which synthesise-distil block of the round.
        step: position inside the phase of the block.
        phase: ``synthesise``, ``distil`` or ``idle`` (a distillation unit of a warm-up round).
        first: whether this is the first step of its phase in the block.
        last: whether this is the last step of its phase in the block.
        counter: number of units since the start of the run; seeds the draws.
    """

    round: int
    block: int
    step: int
    phase: Phase
    first: bool
    last: bool
    counter: int


@dataclass(frozen=True)
class Cadence:
    """How a method divides a round between synthesis and distillation.

    Args:
        synthesis_steps: generator or pixel updates in a block.
        distill_steps: student updates in a block.
        repeats: blocks in a round.
        warmup_rounds: rounds at the start in which the student is not updated.

    Raises:
        ValueError: if a count is negative or a round would be empty.

    Example:
        >>> cadence = Cadence(2, 3, warmup_rounds=1)
        >>> cadence.length
        5
        >>> [cadence.unit(0, i).phase for i in range(5)]
        ['synthesise', 'synthesise', 'idle', 'idle', 'idle']
        >>> cadence.unit(1, 4)
        Unit(round=1, block=0, step=2, phase='distil', first=False, last=True, counter=9)
    """

    synthesis_steps: int
    distill_steps: int
    repeats: int = 1
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        if min(self.synthesis_steps, self.distill_steps, self.warmup_rounds) < 0 or self.length <= 0:
            raise ValueError(f"expected non-negative counts and at least one step in a round, got {self}")

    @property
    def length(self) -> int:
        """Units in a round."""
        return (self.synthesis_steps + self.distill_steps) * self.repeats

    def unit(self, epoch: int, batch_idx: int) -> Unit:
        """Return the unit of a batch.

        Args:
            epoch: the trainer's current epoch.
            batch_idx: position of the batch in the epoch.
        """
        block, position = divmod(batch_idx, self.synthesis_steps + self.distill_steps)
        counter = epoch * self.length + batch_idx
        if position < self.synthesis_steps:
            last = position == self.synthesis_steps - 1
            return Unit(epoch, block, position, "synthesise", position == 0, last, counter)
        step = position - self.synthesis_steps
        phase: Phase = "idle" if epoch < self.warmup_rounds else "distil"
        return Unit(epoch, block, step, phase, step == 0, step == self.distill_steps - 1, counter)
