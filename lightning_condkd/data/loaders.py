"""Loaders of images in memory, exact after a resume, with the same global batches for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.randomness import seeded_generator

Item = TypeVar("Item")

Batch = tuple[Tensor, Tensor]
Position = Callable[[], tuple[int, int]]


@runtime_checkable
class DrawsByStep(Protocol):
    """A module that draws its own images, so that a datamodule serves it the numbers of its steps."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in what the trainer counts as an epoch."""


class ShuffledBatches(IterableDataset[Batch]):
    """One epoch of shuffled batches of equal size; images left over at its end are dropped.

    The order depends on seed and epoch alone. The position is queried when the first batch is fetched: after a resume
    within an epoch Lightning iterates a plain loader from its start, but continues its count of batches.

    Args:
        source: the images.
        batch_size: images in the global batch, over all ranks.
        seed: seed of the order.
        position: function that returns the epoch and the index of its next batch.
        rank: rank of this process; it yields rows ``[rank::world_size]`` of every global batch.
        world_size: number of processes.

    Raises:
        ValueError: if there are fewer images than a batch needs, or the batch size is not divisible by the world size.

    Example:
        >>> source = ImageSource(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5), tuple("abcde"))
        >>> batches = ShuffledBatches(source, 2, seed=0, position=lambda: (0, 1))
        >>> len(batches), len(list(batches))
        (2, 1)
    """

    def __init__(
        self,
        source: ImageSource,
        batch_size: int,
        *,
        seed: int,
        position: Position,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 1 <= batch_size <= len(source):
            raise ValueError(f"batch_size: expected 1 to {len(source)}, the number of images, got {batch_size}")
        if batch_size % world_size:
            raise ValueError(f"batch_size={batch_size} does not divide by {world_size} processes: choose a multiple")
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.position, self.rows = position, slice(rank, None, world_size)

    def __len__(self) -> int:
        return len(self.source) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.position()
        order = torch.randperm(len(self.source), generator=seeded_generator(self.seed, "shuffle", epoch))
        for start in range(first * self.batch_size, len(self) * self.batch_size, self.batch_size):
            ids = order[start : start + self.batch_size][self.rows]
            yield self.source.images[ids], self.source.labels[ids]


class EvaluationBatches(IterableDataset[Batch]):
    """All images once, in order; every rank yields equally many batches, of which the last may be empty.

    No image is repeated to fill a batch, so metrics over all ranks are exact.

    Args:
        source: the images.
        batch_size: images in the global batch, over all ranks.
        rank: rank of this process; it yields rows ``[rank::world_size]`` of every global batch.
        world_size: number of processes.

    Raises:
        ValueError: if the batch size is not positive.

    Example:
        >>> source = ImageSource(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.arange(3), ("a", "b", "c"))
        >>> [labels.tolist() for _, labels in EvaluationBatches(source, 2, rank=1, world_size=2)]
        [[1], []]
    """

    def __init__(self, source: ImageSource, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number of images, got {batch_size}")
        self.source, self.batch_size, self.rows = source, batch_size, slice(rank, None, world_size)

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.source), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield self.source.images[rows][self.rows], self.source.labels[rows][self.rows]


class StepStream(IterableDataset[int]):
    """The numbers of the steps in a round.

    Args:
        length: steps in a round.
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.length))


class ResumableLoader(DataLoader[Item]):
    """A loader of a dataset's items in the training process; the dataset or the module handles resuming.

    Args:
        dataset: the items of an epoch.

    Example:
        >>> list(ResumableLoader(StepStream(2)))
        [0, 1]
    """

    def __init__(self, dataset: IterableDataset[Item]) -> None:
        # Without a generator of its own it would take a number from the global stream at every epoch.
        super().__init__(dataset, batch_size=None, num_workers=0, generator=torch.Generator())

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state; that the method exists shows Lightning that a resume within an epoch is exact."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Accept the result of :meth:`state_dict`.

        Args:
            state_dict: the empty state.
        """


def step_loader(length: int) -> DataLoader[int]:
    """Return the loader of one round, for :class:`~lightning_condkd.modules.CondKD` without its datamodule.

    Args:
        length: steps in a round, ``inversion.cadence.length``.

    Example:
        >>> list(step_loader(3))
        [0, 1, 2]
    """
    return ResumableLoader(StepStream(length))
