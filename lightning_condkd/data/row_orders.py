"""Orders in which the rows of a data set are read, the same global batches for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from lightning_condkd.randomness import seeded_generator


class RowOrder(Protocol):
    """Rows of the batches of an epoch."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Tensor]:
        """Yield this rank's rows of every batch.

        Args:
            epoch: index of the epoch.
            first: index of the first batch that is yielded.
        """


class ShuffledRows:
    """Shuffled batches of equal size; rows left over at the end of an epoch are dropped.

    The order depends on seed and epoch alone.

    Args:
        count: number of rows in the data set.
        batch_size: rows in the global batch, over all ranks.
        seed: seed of the order.
        rank: rank of this process; it gets rows ``[rank::world_size]`` of every global batch.
        world_size: number of processes.

    Raises:
        ValueError: if there are fewer images than a batch needs, or the batch size is not divisible by the world size.

    Example:
        >>> order = ShuffledRows(5, batch_size=2, seed=0)
        >>> len(order), [rows.tolist() for rows in order.batches(epoch=0, first=1)]
        (2, [[4, 3]])
    """

    def __init__(self, count: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if not 1 <= batch_size <= count:
            raise ValueError(f"batch_size: expected 1 to {count}, the number of images, got {batch_size}")
        if batch_size % world_size:
            raise ValueError(f"batch_size={batch_size} does not divide by {world_size} processes: choose a multiple")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.share = slice(rank, None, world_size)

    def __len__(self) -> int:
        return self.count // self.batch_size

    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Tensor]:
        """Yield this rank's rows of every batch, int64.

        Args:
            epoch: index of the epoch.
            first: index of the first batch that is yielded.
        """
        order = torch.randperm(self.count, generator=seeded_generator(self.seed, "shuffle", epoch))
        for start in range(first * self.batch_size, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size][self.share]


class RowsInOrder:
    """All rows once, in order; every rank gets equally many batches, of which the last may be empty.

    No row is repeated to fill a batch, so metrics over all ranks are exact.

    Args:
        count: number of rows in the data set.
        batch_size: rows in the global batch, over all ranks.
        rank: rank of this process; it gets rows ``[rank::world_size]`` of every global batch.
        world_size: number of processes.

    Raises:
        ValueError: if the batch size is not positive.

    Example:
        >>> [rows.tolist() for rows in RowsInOrder(3, 2, rank=1, world_size=2).batches()]
        [[1], []]
    """

    def __init__(self, count: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number of images, got {batch_size}")
        self.count, self.batch_size, self.share = count, batch_size, slice(rank, None, world_size)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Tensor]:
        """Yield this rank's rows of every batch, int64.

        Args:
            epoch: not used; every epoch is the same.
            first: index of the first batch that is yielded.
        """
        for start in range(first * self.batch_size, self.count, self.batch_size):
            yield torch.arange(start, min(start + self.batch_size, self.count))[self.share]
