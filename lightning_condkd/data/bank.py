"""Memory bank: synthetic images from inversion, stored as bytes for distillation."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_condkd.data.bank_rows import check_whole, loaded_rows, no_rows
from lightning_condkd.data.chunks import ChunkFolder, refuse_other_runs
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.formats.contents import CondensedInfo
from lightning_condkd.pixels import to_bytes


def quantize(images: Tensor) -> tuple[Tensor, int]:
    """Return images as uint8 on the CPU, and the number of clamped pixel values.

    Args:
        images: uint8, or floating point pixels in the units of [0, 1]; any shape.

    Raises:
        ValueError: if a pixel is not finite, or the dtype is another.

    Example:
        >>> quantize(torch.tensor([0.0, 0.5, 1.0, 1.5]))
        (tensor([  0, 128, 255, 255], dtype=torch.uint8), 1)
    """
    images = images.detach()
    if images.dtype == torch.uint8:
        return images.cpu(), 0
    if not images.is_floating_point():
        raise ValueError(f"expected floating point or uint8 images, got {images.dtype}: convert with .float()")
    if not bool(images.isfinite().all()):
        raise ValueError("images hold NaN or infinity, nothing was stored: lower the learning rate of the synthesis")
    clamped = int(((images < 0) | (images > 1)).sum())
    return to_bytes(images).cpu(), clamped


class MemoryBank:
    """Synthetic images as uint8, with their labels and the rounds in which they were made.

    Without a folder the checkpoint contains the bank. With a folder (:meth:`attach`) the rows are written to
    append-only chunk files there, and the checkpoint lists the chunks that it needs. A chunk's name contains a hash of
    its content, so a resumed run never overwrites the chunks of another checkpoint, and files left by a crash are
    ignored. Chunks whose rows are all beyond the capacity stay until :meth:`remove_chunks` is called.

    Rows that a user appends before a run belong to it. Rows that a run appends (:meth:`running`) are dropped when
    another run starts with the same bank (:meth:`start_run`).

    Args:
        capacity: largest number of images; beyond it the oldest are dropped. ``None`` keeps all.

    Example:
        >>> bank = MemoryBank(capacity=3)
        >>> bank.append(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]), round=0)
        >>> len(bank), bank.images_seen, bank.labels
        (3, 4, tensor([1, 2, 3]))
    """

    def __init__(self, capacity: int | None = None) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"expected capacity of at least 1, got {capacity}: None keeps all images")
        self.capacity = capacity
        self.clear()

    def clear(self) -> None:
        """Drop all rows and the id of their run, as in a new bank; files are not removed."""
        self._run_id: str | None = None
        self._live = no_rows()
        self._folder = ChunkFolder()
        self._given = 0
        self._used: int | None = None

    def __len__(self) -> int:
        return self._live.size

    @property
    def images_seen(self) -> int:
        """Number of images appended so far, including dropped ones."""
        return self._live.seen

    @property
    def directory(self) -> Path | None:
        """Folder of the chunks; ``None`` without one."""
        return self._folder.directory

    @property
    def run_id(self) -> str:
        """Id of the rows' run, generated at first use; all ranks of a run must have the same."""
        if self._run_id is None:
            self._run_id = os.urandom(8).hex()
        return self._run_id

    @run_id.setter
    def run_id(self, value: str) -> None:
        if self._folder.chunks and value != self._run_id:
            raise ValueError(f"chunks of run {self._run_id} are written, run_id cannot become {value}: set it before")
        self._run_id = value

    @property
    def images(self) -> Tensor:
        """``(N, C, H, W)`` uint8, oldest first; a view that must not be changed."""
        return self._live.newest(len(self))["images"]

    @property
    def labels(self) -> Tensor:
        """``(N,)`` int64, oldest first; a view that must not be changed."""
        return self._live.newest(len(self))["labels"]

    @property
    def rounds(self) -> Tensor:
        """Round in which each image was made, ``(N,)`` int64, oldest first; a view that must not be changed."""
        return self._live.newest(len(self))["rounds"]

    @property
    def clamped_share(self) -> float:
        """Share of all appended floating point pixel values that were outside [0, 1]."""
        return self._live.clamped / max(1, self._live.float_values)

    def append(self, images: Tensor, labels: Tensor, round: int) -> None:
        """Store a batch; a refused batch leaves the bank unchanged.

        Args:
            images: ``(N, C, H, W)``; floating point pixels in the units of [0, 1], rounded to 8 bits, or uint8.
            labels: classes, ``(N,)`` int64.
            round: the round in which they were made.

        Raises:
            ValueError: if a pixel is not finite, or shapes or dtypes do not fit the bank.
        """
        self._check(images, labels)
        quantized, clamped = quantize(images)
        live = self._live.pushed((quantized, labels.cpu(), torch.full((len(labels),), round)), self.capacity)
        values = images.numel() if images.is_floating_point() else 0
        self._live = live._replace(
            seen=live.seen + len(labels), clamped=live.clamped + clamped, float_values=live.float_values + values
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Mark the rows that are appended inside the context as those of a run."""
        if self._used is None:
            self._given = self.images_seen
        yield
        self._used = self.images_seen

    def resume_run(self, given: int) -> None:
        """Mark the rows of a loaded state as those of the resumed run.

        Args:
            given: ``given`` of the state, the number of rows before the run's first one.
        """
        self._given, self._used = given, self.images_seen

    def start_run(self) -> int:
        """Start another run: drop the rows of an earlier run, and keep rows that a user appended to an unused bank.

        Returns:
            The number of dropped images.

        Raises:
            ValueError: if an earlier run and then a user have appended images, so it is unclear which rows to keep.

        Example:
            >>> bank = MemoryBank()
            >>> bank.append(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), round=0)
            >>> bank.start_run(), len(bank)
            (0, 2)
        """
        if self._used is None:
            return 0
        if self._given or self.images_seen != self._used:
            by_hand = self._given + self.images_seen - self._used
            raise ValueError(
                f"the memory bank holds {len(self)} images of an earlier run and was also given {by_hand} by hand: a "
                "new run starts without the former. Call transfer_set.bank.clear() and append yours again, or make a "
                "new datamodule or TransferSet; to continue the earlier run pass its ckpt_path"
            )
        dropped = len(self)
        self.clear()
        return dropped

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows by their position in the order of age.

        Args:
            indices: ``(n,)`` int64.

        Returns:
            Images ``(n, C, H, W)`` uint8 and labels ``(n,)`` int64, copied.
        """
        return self.images[indices], self.labels[indices]

    def label_counts(self, num_classes: int) -> Tensor:
        """Return the number of images of each class, ``(K,)`` int64.

        Args:
            num_classes: number of classes K.

        Raises:
            ValueError: if the bank contains a larger label.
        """
        counts = torch.bincount(self.labels, minlength=num_classes)
        if len(counts) > num_classes:
            raise ValueError(f"the bank holds labels up to {len(counts) - 1}: num_classes={num_classes} is too small")
        return counts

    def attach(self, directory: str | Path, writer: bool = True) -> None:
        """Keep the rows in a folder from now on; chunks of a loaded state are linked or copied into it.

        A resumed run calls :meth:`load_state_dict` first, which sets the id of the run.

        Args:
            directory: folder of the chunks.
            writer: whether this process writes; true on one rank only.

        Raises:
            ValueError: if the folder contains chunks of another run.
        """
        self._folder.attach(Path(directory), writer, self.run_id)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, the same on every rank, after writing the rows that are in no chunk yet.

        Without a folder it contains the rows. All values are tensors, numbers, strings, lists or dicts.
        """
        live = self._live
        state = {
            "run_id": self.run_id,
            "capacity": 0 if self.capacity is None else self.capacity,
            "size": live.size,
            "images_seen": live.seen,
            "clamped": live.clamped,
            "float_values": live.float_values,
            "given": live.seen if self._used is None else self._given,
        }
        directory = self._folder.directory
        if directory is None:
            return state | {"rows": {name: rows.clone() for name, rows in live.newest(live.size).items()}}
        return state | {"directory": str(directory), "chunks": self._folder.flush(directory, live, self.run_id)}

    def remove_chunks(self, needed: Collection[str]) -> list[str]:
        """Remove chunk files whose rows are all beyond the capacity, except those that are still needed.

        Only files that this process has listed in a state are considered. Links to them in other folders stay.

        Args:
            needed: names of chunks that a checkpoint lists.

        Returns:
            Names of the removed files.
        """
        return self._folder.remove(needed)

    def load_state_dict(self, state: Mapping[str, Any], search: Sequence[str | Path] = ()) -> None:
        """Restore the rows byte for byte; with a smaller capacity than the state's, this bank drops the oldest.

        Args:
            state: result of :meth:`state_dict`.
            search: folders to search for the chunks, in this order, if the recorded one has moved.

        Raises:
            FileNotFoundError: if a chunk is in none of the folders.
            ValueError: if a chunk was altered, rows are missing or doubled, or a folder has the bank of another run.
        """
        check_whole(state)
        if self._folder.directory is not None:
            refuse_other_runs(self._folder.directory, state["run_id"])
        chunks, batches = ([], [state["rows"]]) if "rows" in state else self._folder.read(state, search)
        self._live = loaded_rows(batches, state, self.capacity)
        self._run_id = state["run_id"]
        self._folder.adopt(chunks)

    def export(self, path: str | Path, num_classes: int | None = None) -> None:
        """Write the current rows as one condensed set, which :meth:`CondensedSet.load` reads.

        Args:
            path: target, ending in ``.safetensors``.
            num_classes: number of classes; by default the largest label + 1.

        Raises:
            ValueError: if the bank is empty.
        """
        if not len(self):
            raise ValueError("the memory bank is empty, there is nothing to export: synthesise first")
        info = CondensedInfo(
            num_classes or int(self.labels.max()) + 1,
            method="memory bank",
            settings={"images_seen": self.images_seen, "clamped_share": self.clamped_share},
            provenance={"run": self.run_id},
        )
        CondensedSet(self.images, self.labels, info=info).save(path)

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if images.dim() != 4 or labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"expected images (N, C, H, W) and int64 labels (N,), got {tuple(images.shape)} and "
                f"{labels.dtype} {tuple(labels.shape)}: give one class per image"
            )
        if self.images_seen and images.shape[1:] != self.images.shape[1:]:
            held, came = tuple(self.images.shape[1:]), tuple(images.shape[1:])
            raise ValueError(f"the bank holds images of {held}, got {came}: keep the generator's image size")
