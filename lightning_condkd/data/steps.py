"""A loader of step numbers: the module draws its own images by step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset


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


def step_loader(length: int) -> DataLoader[int]:
    """Return the loader of one round, for :class:`~lightning_condkd.modules.CondKD` without its datamodule.

    Args:
        length: steps in a round, ``inversion.cadence.length``.

    Example:
        >>> list(step_loader(3))
        [0, 1, 2]
    """
    # Its own generator: the default one would take a number from the global stream at every epoch.
    return DataLoader(StepStream(length), batch_size=None, num_workers=0, generator=torch.Generator())
