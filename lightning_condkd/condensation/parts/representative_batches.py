"""Representative real batches in place of random ones (DREAM)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_condkd.distributed import sync_buffers
from lightning_condkd.functional.selection import k_means_nearest
from lightning_condkd.randomness import Draw

NO_ROW = -1


class RepresentativeBatches(nn.Module):
    """DREAM: choose real images near the centres of clusters, so that they cover their class evenly.

    Every ``interval`` iterations the images of each class are clustered in the embedding of the current network, with
    as many clusters as the batch has images; the image nearest to each centre is chosen. The batch is kept until the
    next choice and is part of a checkpoint. A class with no more images than the batch gives all of them.

    Images are normalised before they are embedded, without augmentation; the official code does not normalise here.

    Args:
        interval: iterations for which a batch is kept (official code 10).
        pool: images of each class to choose from, drawn at random each time; ``None`` for the whole class, as in the
            official code. On a CPU a bound of a few times the batch saves most of the time.

    Raises:
        ValueError: if a count is not positive.

    Example:
        >>> batches = RepresentativeBatches(interval=5)
        >>> batches.build(num_classes=1, per_class=2)
        >>> values, rows = torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0], [11.0]]), [torch.arange(6)]
        >>> [chosen] = batches.choose(rows, lambda rows: values[rows], Draw(seed=0, step=0))
        >>> sorted(chosen.tolist())
        [1, 4]

    References:
        Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV 2023 (and its code).
    """

    rows: Tensor

    def __init__(self, interval: int = 10, *, pool: int | None = None) -> None:
        super().__init__()
        for name, count in {"interval": interval, "pool": pool}.items():
            if count is not None and count < 1:
                raise ValueError(f"{name}: expected a positive number, got {count}")
        self.interval, self.pool = interval, pool
        self.register_buffer("rows", torch.empty(0, 0, dtype=torch.int64))

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"interval={self.interval}, pool={self.pool}"

    def build(self, num_classes: int, per_class: int) -> None:
        """Create the buffer for the rows of a batch; called once, before the first iteration.

        Args:
            num_classes: number of classes K.
            per_class: real images of each class in an iteration, over all ranks.

        Raises:
            ValueError: if the pool is smaller than the batch.
        """
        if self.pool is not None and self.pool < per_class:
            raise ValueError(f"pool: expected at least the {per_class} images of real_batch, got {self.pool}; raise it")
        self.rows = torch.full((num_classes, per_class), NO_ROW, device=self.rows.device)

    def choose(self, class_rows: Sequence[Tensor], embed: Callable[[Tensor], Tensor], draw: Draw) -> list[Tensor]:
        """Return the real images of an iteration, after a new choice if the interval is over.

        Args:
            class_rows: rows of each class.
            embed: function from rows of the data, ``(M,)`` int64, to embeddings ``(M, D)`` in the current network, the
                same on every rank.
            draw: the randomness of the iteration.

        Returns:
            Rows of the data on the CPU, a tensor for each class: this rank's share.

        Raises:
            RuntimeError: if :meth:`build` was not called for as many classes.
        """
        if len(self.rows) != len(class_rows):
            raise RuntimeError(f"expected build(num_classes={len(class_rows)}, ...) before the first iteration")
        if draw.step % self.interval == 0 or int(self.rows.max()) == NO_ROW:
            self._refresh(class_rows, embed, draw)
        return [rows[rows != NO_ROW][draw.rows] for rows in self.rows.cpu()]

    def _refresh(self, class_rows: Sequence[Tensor], embed: Callable[[Tensor], Tensor], draw: Draw) -> None:
        generator = draw.generator("representative")
        self.rows.fill_(NO_ROW)
        for label, rows in enumerate(class_rows):
            chosen = self._chosen(rows, embed, generator)
            self.rows[label, : len(chosen)] = chosen.to(self.rows.device)
        # Both images of a cluster of two are equally near, so rounding decides and may differ between ranks.
        sync_buffers([self])

    def _chosen(self, rows: Tensor, embed: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
        per_class = self.rows.shape[1]
        if self.pool is not None:
            rows = rows[torch.randperm(len(rows), generator=generator)[: self.pool]]
        if len(rows) <= per_class:
            return rows
        return rows[k_means_nearest(embed(rows), per_class, generator).cpu()]
