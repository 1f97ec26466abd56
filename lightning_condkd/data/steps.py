"""A loader of step numbers: the module draws its own images by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

Item = TypeVar("Item")


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
    """A loader of what a dataset yields, on the training process; the dataset or the module knows where a run resumes.

    Args:
        dataset: the items of an epoch.

    Example:
        >>> list(ResumableLoader(StepStream(2)))
        [0, 1]
    """

    def __init__(self, dataset: IterableDataset[Item]) -> None:
        # Its own generator: the default one would take a number from the global stream at every epoch.
        super().__init__(dataset, batch_size=None, num_workers=0, generator=torch.Generator())

    def state_dict(self) -> dict[str, Any]:
        """Return nothing; it is there to tell Lightning that a resume within an epoch is exact."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Accept what :meth:`state_dict` returned.

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
