"""What every condensation method is, and how real images are drawn by class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_condkd.randomness import Draw
from lightning_condkd.types import LossTerms


class RealBatch(NamedTuple):
    """Real images of every class: this rank's share.

    Args:
        images: ``(M, C, H, W)``, pixels in the units of [0, 1].
        labels: classes, ``(M,)`` int64, on the CPU.
    """

    images: Tensor
    labels: Tensor


class CondensationMethod(nn.Module, ABC):
    """Base of the methods that learn the pixels of a condensed set; plain PyTorch.

    Args:
        real_batch: real images of each class in an iteration, over all ranks; a smaller class gives all that it has.

    Attributes:
        name: what the method is called in the files that it makes.
    """

    name: str

    def __init__(self, real_batch: int) -> None:
        super().__init__()
        if real_batch < 1:
            raise ValueError(f"real_batch: expected a positive number of images, got {real_batch}")
        self.real_batch = real_batch

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor, real: RealBatch, draw: Draw) -> LossTerms:
        """Return the loss of one iteration.

        Args:
            images: the learned pixels of the whole set, ``(N, C, H, W)``, in the units of [0, 1].
            labels: their classes, ``(N,)`` int64, on the CPU; every class has an image.
            real: real images, this rank's share of the draw.
            draw: the randomness of the iteration; the same on all ranks but for the share.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what a file of this method records of its settings, JSON values only."""


def draw_rows(class_rows: Sequence[Tensor], per_class: int, draw: Draw) -> Tensor:
    """Draw real images without replacement from every class.

    Args:
        class_rows: rows of each class in the data.
        per_class: images of each class, over all ranks; a smaller class gives all that it has.
        draw: the randomness of the iteration.

    Returns:
        Rows of the data by class: this rank's share of each class.

    Example:
        >>> table = [torch.tensor([0, 1, 2]), torch.tensor([3])]
        >>> [len(draw_rows(table, 2, Draw(seed=0, step=0, rank=rank, world_size=2))) for rank in (0, 1)]
        [2, 1]
    """
    generator = draw.generator("real")
    chosen = [rows[torch.randperm(len(rows), generator=generator)[:per_class]] for rows in class_rows]
    return torch.cat([rows[draw.rows] for rows in chosen])
