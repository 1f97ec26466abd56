"""Transfer set: the mixture of condensed and synthetic images that the student learns from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.mix import AnnealedMix, Mix, check_mix, condensed_count
from lightning_condkd.pixels import check_pixels, to_pixels
from lightning_condkd.randomness import Draw, send


class TransferBatch(NamedTuple):
    """The rows of one batch that this rank owns.

    Args:
        images: ``(n, C, H, W)``, pixels in the units of [0, 1], in the default dtype.
        labels: ``(n,)`` int64; -1 where a synthetic image has none.
        from_condensed: whether a row comes from the condensed set, ``(n,)`` bool.
        slots: number of each image, ``(n,)`` int64, the same whenever it is drawn: first the condensed images, then
            those of the bank in the order of synthesis, modulo its capacity; -1 for images that are not stored.
    """

    images: Tensor
    labels: Tensor
    from_condensed: Tensor
    slots: Tensor


class TransferSet:
    """Draws batches from a condensed set and a memory bank, the same for any number of ranks.

    Batches are drawn with replacement from the current content of both. If the number of condensed images per batch is
    fixed, they come first in the batch, so every rank's rows have equally many. While the bank is empty, batches are
    all condensed.

    Args:
        condensed: the condensed set.
        bank: the memory bank; by default an empty one without limit.
        mix: ``union`` draws uniformly from both together, so the condensed share falls as the bank grows;
            ``two_term`` makes half of every batch condensed, for two loss means of equal weight; a number is the
            condensed share of every batch, rounded to whole images: 0 is the bank alone, 1 the condensed set alone; an
            :class:`AnnealedMix` is a share that changes from round to round.
        batch_size: images in the global batch, over all ranks.

    Raises:
        ValueError: if the batch size does not fit the mix, or the condensed images are not in the units of [0, 1].

    Example:
        >>> condensed = CondensedSet(torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> transfer = TransferSet(condensed, mix=0.25, batch_size=8)
        >>> transfer.append(torch.rand(32, 3, 8, 8), torch.arange(32) % 3, round=0)
        >>> transfer.draw(Draw(seed=0, step=0)).from_condensed.sum()
        tensor(2)
    """

    def __init__(
        self,
        condensed: CondensedSet,
        bank: MemoryBank | None = None,
        *,
        mix: Mix | float | AnnealedMix = "union",
        batch_size: int = 128,
    ) -> None:
        check_mix(mix, batch_size)
        check_pixels(condensed.images)
        self.condensed = condensed
        self.bank = MemoryBank() if bank is None else bank
        self.mix = mix
        self.batch_size = batch_size
        self._by_class = torch.cat([condensed.class_indices(label) for label in range(condensed.num_classes)])
        self._first = condensed.counts.cumsum(0) - condensed.counts

    @property
    def condensed_per_batch(self) -> int | None:
        """Condensed images per batch once the bank is not empty; ``None`` if the number is not the same in all."""
        return None if isinstance(self.mix, AnnealedMix) else condensed_count(self.mix, self.batch_size, round=0)

    @property
    def synthetic_per_batch(self) -> int:
        """Synthetic images per batch of a method that stores none.

        Raises:
            ValueError: if their number is not fixed (``union``, :class:`AnnealedMix`).
        """
        if self.condensed_per_batch is None:
            raise ValueError(f"mix={self.mix!r} draws from the bank: set mix to a share of condensed images in a batch")
        return self.batch_size - self.condensed_per_batch

    def check_world_size(self, world_size: int) -> None:
        """Check that every rank gets equally many rows, and equally many condensed ones if their number is fixed.

        Args:
            world_size: number of processes.

        Raises:
            ValueError: if the batch, or its condensed part, is not divisible by the number of processes.
        """
        if self.batch_size % world_size:
            raise ValueError(
                f"batch_size={self.batch_size} does not divide by {world_size} processes: "
                f"choose a multiple of {world_size}"
            )
        if (self.condensed_per_batch or 0) % world_size:
            raise ValueError(
                f"mix={self.mix!r} puts {self.condensed_per_batch} condensed images into a batch, which do not divide "
                f"by {world_size} processes: choose a batch_size or mix that makes it a multiple of {world_size}"
            )

    def draw(self, draw: Draw, device: torch.device | None = None, round: int = 0) -> TransferBatch:
        """Return this rank's rows of a random batch.

        Args:
            draw: randomness of the step.
            device: device of the rows; they are moved as bytes, then converted.
            round: index of the round, for an :class:`AnnealedMix`.

        Raises:
            ValueError: if the bank is empty and ``mix`` is 0.
        """
        rows = self._rows(draw.generator("transfer"), round)[draw.rows]
        from_condensed = rows < len(self.condensed)
        condensed, labels = self.condensed.pixels(rows[from_condensed], device), self.condensed.labels
        if bool(from_condensed.all()):
            return TransferBatch(
                condensed, send(labels[rows], device), send(from_condensed, device), send(rows, device)
            )
        synthetic, targets = self.bank.take(rows[~from_condensed] - len(self.condensed))
        order = torch.cat([from_condensed.nonzero(), from_condensed.logical_not().nonzero()]).flatten().argsort()
        labels = torch.cat([labels[rows[from_condensed]], targets])[order]
        images = torch.cat([condensed, to_pixels(synthetic, device)])[send(order, device)]
        slots = send(torch.where(from_condensed, rows, self._bank_slots(rows)), device)
        return TransferBatch(images, send(labels, device), send(from_condensed, device), slots)

    def slot_count(self, stored: int) -> int:
        """Return the number of different images of a run, see :attr:`TransferBatch.slots`.

        Args:
            stored: number of images that the bank stores in the whole run, if it has no capacity.
        """
        return len(self.condensed) + (stored if self.bank.capacity is None else self.bank.capacity)

    def _bank_slots(self, rows: Tensor) -> Tensor:
        age = rows - len(self.condensed) + self.bank.images_seen - len(self.bank)
        return len(self.condensed) + (age if self.bank.capacity is None else age % self.bank.capacity)

    def blend(self, images: Tensor, labels: Tensor | None, draw: Draw) -> TransferBatch:
        """Return a batch of this rank's condensed rows, followed by the given synthetic images.

        Args:
            images: this rank's rows of the :attr:`synthetic_per_batch` images, ``(n, C, H, W)``, pixels in the units of
                [0, 1].
            labels: their classes, ``(n,)`` int64; ``None`` without any.
            draw: randomness of the step.

        Example:
            >>> condensed = CondensedSet(torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))
            >>> transfer = TransferSet(condensed, mix=0.25, batch_size=4)
            >>> transfer.blend(torch.rand(3, 3, 8, 8), None, Draw(seed=0, step=0)).from_condensed
            tensor([ True, False, False, False])
        """
        count = self.batch_size - self.synthetic_per_batch
        rows = torch.randint(len(self.condensed), (count,), generator=draw.generator("transfer"))[draw.rows]
        targets = torch.full((len(images),), -1) if labels is None else labels
        return TransferBatch(
            torch.cat([self.condensed.pixels(rows, images.device).to(images), images]),
            torch.cat([self.condensed.labels[rows].to(images.device), targets.to(images.device)]),
            torch.arange(len(rows) + len(images), device=images.device) < len(rows),
            torch.cat([rows.to(images.device), torch.full((len(images),), -1, device=images.device)]),
        )

    def matching(self, labels: Tensor, draw: Draw, device: torch.device | None = None) -> TransferBatch:
        """Return a random condensed image of the class of each label of this rank, drawn with replacement.

        Args:
            labels: classes of the global batch, ``(N,)`` int64.
            draw: randomness of the step.
            device: device of the rows.

        Raises:
            ValueError: if a label is no class of the condensed set, or its class has no image.
        """
        labels = labels.cpu()
        self._check_classes(labels)
        # Integers, so that rounding cannot reach the next class; the bias of the remainder is below count / 2**62.
        random = torch.randint(2**62, labels.shape, generator=draw.generator("matching"))
        offsets = random % self.condensed.counts[labels]
        rows = self._by_class[self._first[labels] + offsets][draw.rows]
        ones = torch.ones(len(rows), dtype=torch.bool, device=device)
        pixels = self.condensed.pixels(rows, device)
        return TransferBatch(pixels, labels[draw.rows].to(device), ones, rows.to(device))

    def append(self, images: Tensor, labels: Tensor, round: int) -> None:
        """Store synthetic images in the bank.

        Args:
            images: ``(N, C, H, W)``, pixels in the units of [0, 1], of the condensed images' shape.
            labels: classes, ``(N,)`` int64.
            round: the round that made them.

        Raises:
            ValueError: if they do not fit the condensed set or the bank.
        """
        if images.shape[1:] != self.condensed.image_shape:
            raise ValueError(
                f"condensed images are {self.condensed.image_shape}, synthetic ones {tuple(images.shape[1:])}: "
                "give the generator the same image size"
            )
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        if low < 0 or high >= self.condensed.num_classes:
            raise ValueError(
                f"expected labels 0 to {self.condensed.num_classes - 1}, got {low} to {high}: "
                "the generator must have as many classes as the condensed set"
            )
        self.bank.append(images, labels, round)

    def _rows(self, generator: torch.Generator, round: int) -> Tensor:
        condensed, bank = len(self.condensed), len(self.bank)
        fixed = condensed_count(self.mix, self.batch_size, round)
        if self.mix == 0 and not bank:
            raise ValueError("mix=0 draws from the memory bank alone, which is empty: synthesise first, or raise mix")
        if fixed is None:
            return torch.randint(condensed + bank, (self.batch_size,), generator=generator)
        fixed = fixed if bank else self.batch_size
        first = torch.randint(condensed, (fixed,), generator=generator)
        if fixed == self.batch_size:
            return first
        return torch.cat((first, condensed + torch.randint(bank, (self.batch_size - fixed,), generator=generator)))

    def _check_classes(self, labels: Tensor) -> None:
        present = set(self.condensed.counts.nonzero().flatten().tolist())
        if lacking := sorted(set(labels.tolist()) - present):
            raise ValueError(
                f"the condensed set has no image of class {', '.join(map(str, lacking))}, so none can be matched: "
                "add some, or switch off parts that match by class, such as the alignment"
            )
