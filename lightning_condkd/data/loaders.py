"""Loaders of images in memory, exact after a resume, with the same global batches for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.data.row_orders import RowsInOrder, ShuffledRows

Item = TypeVar("Item")

Batch = tuple[Tensor, Tensor]
BatchWithRows = tuple[Tensor, Tensor, Tensor]
Position = Callable[[], tuple[int, int]]


@runtime_checkable
class DrawsByStep(Protocol):
    """A module that draws its own images, so that a datamodule serves it the numbers of its steps."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in what the trainer counts as an epoch."""


class ShuffledBatches(IterableDataset[Batch | BatchWithRows]):
    """One epoch of shuffled batches of equal size, see :class:`~lightning_condkd.data.row_orders.ShuffledRows`.

    The position is queried when the first batch is fetched: after a resume within an epoch Lightning iterates a plain
    loader from its start, but continues its count of batches.

    Args:
        source: the images.
        batch_size: images in the global batch, over all ranks.
        seed: seed of the order.
        position: function that returns the epoch and the index of its next batch.
        rank: rank of this process; it yields rows ``[rank::world_size]`` of every global batch.
        world_size: number of processes.
        with_rows: whether batches carry the rows of their images in ``source`` as a third element, int64.

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
        with_rows: bool = False,
    ) -> None:
        self.order = ShuffledRows(len(source), batch_size, seed=seed, rank=rank, world_size=world_size)
        self.source, self.position, self.with_rows = source, position, with_rows

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch | BatchWithRows]:
        for rows in self.order.batches(*self.position()):
            images, labels = self.source.images[rows], self.source.labels[rows]
            yield (images, labels, rows) if self.with_rows else (images, labels)


class EvaluationBatches(IterableDataset[Batch]):
    """All images once, in order, see :class:`~lightning_condkd.data.row_orders.RowsInOrder`.

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
        self.order = RowsInOrder(len(source), batch_size, rank=rank, world_size=world_size)
        self.source = source

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self.order.batches():
            yield self.source.images[rows], self.source.labels[rows]


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
    """A loader of a dataset's items; the dataset or the module handles resuming.

    Args:
        dataset: the items of an epoch.
        num_workers: processes that make the items; 0 for the training process itself.

    Example:
        >>> list(ResumableLoader(StepStream(2)))
        [0, 1]
    """

    def __init__(self, dataset: IterableDataset[Item], num_workers: int = 0) -> None:
        # Without a generator of its own it would take a number from the global stream at every epoch.
        super().__init__(dataset, batch_size=None, num_workers=num_workers, generator=torch.Generator())

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
