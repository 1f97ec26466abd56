"""The memory bank: synthetic images that inversion made, kept as bytes for distillation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_condkd.data import files
from lightning_condkd.data.condensed import CondensedInfo, CondensedSet

ROW_NAMES = ("images", "labels", "rounds")


def quantise(images: Tensor) -> tuple[Tensor, int]:
    """Return images as uint8 on the CPU, and how many pixel values had to be clamped.

    Args:
        images: uint8, or floating point pixels in the units of [0, 1]; any shape.

    Raises:
        ValueError: a pixel is not finite, or the dtype is neither.

    Example:
        >>> quantise(torch.tensor([0.0, 0.5, 1.0, 1.5]))
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
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu(), clamped


class MemoryBank:
    """Synthetic images as uint8, with their labels and the round that made them.

    Without a folder the bank travels inside the checkpoint. With one (:meth:`attach`) its rows go to append-only chunk
    files there, and the checkpoint names the chunks that it needs. A chunk's name carries a hash of its content, so a
    resumed run never overwrites what another checkpoint names, and what a crash left behind is ignored.

    Args:
        capacity: most images that it holds; beyond it the oldest go first. ``None`` keeps all.

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
        self.images_seen = 0
        self._run_id: str | None = None
        self._clamped = self._float_values = 0
        self._start = self._stop = 0
        self._rows = _no_rows()
        self._directory: Path | None = None
        self._writer = True
        self._chunks: list[files.Chunk] = []
        self._flushed = 0

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def run_id(self) -> str:
        """The run that the rows belong to; made up at first use, so the ranks of one run must be given one."""
        if self._run_id is None:
            self._run_id = os.urandom(8).hex()
        return self._run_id

    @run_id.setter
    def run_id(self, value: str) -> None:
        if self._chunks and value != self._run_id:
            raise ValueError(f"chunks of run {self._run_id} are written, run_id cannot become {value}: set it before")
        self._run_id = value

    @property
    def images(self) -> Tensor:
        """``(N, C, H, W)`` uint8, oldest first; a view, to be read only."""
        return self._rows[0][self._start : self._stop]

    @property
    def labels(self) -> Tensor:
        """``(N,)`` int64, oldest first; a view, to be read only."""
        return self._rows[1][self._start : self._stop]

    @property
    def rounds(self) -> Tensor:
        """The round that made each image, ``(N,)`` int64, oldest first; a view, to be read only."""
        return self._rows[2][self._start : self._stop]

    @property
    def clamped_share(self) -> float:
        """Share of the floating point pixel values ever appended that lay outside [0, 1]."""
        return self._clamped / max(1, self._float_values)

    def append(self, images: Tensor, labels: Tensor, round: int) -> None:
        """Store a batch; the bank stays as it was when the batch is refused.

        Args:
            images: ``(N, C, H, W)``; floating point pixels in the units of [0, 1], rounded to 8 bits, or uint8.
            labels: classes, ``(N,)`` int64.
            round: the round that made them.

        Raises:
            ValueError: a pixel is not finite, or shapes or dtypes do not fit the bank.
        """
        self._check(images, labels)
        quantised, clamped = quantise(images)
        if images.is_floating_point():
            self._float_values += images.numel()
            self._clamped += clamped
        self.images_seen += len(labels)
        self._push((quantised, labels.cpu(), torch.full((len(labels),), round)))

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
            ValueError: the bank holds a class beyond.
        """
        counts = torch.bincount(self.labels, minlength=num_classes)
        if len(counts) > num_classes:
            raise ValueError(f"the bank holds labels up to {len(counts) - 1}: num_classes={num_classes} is too small")
        return counts

    def attach(self, directory: str | Path, writer: bool = True) -> None:
        """Keep the rows in a folder from now on; chunks of a loaded state are linked or copied into it.

        A resumed run calls :meth:`load_state_dict` first, so that the bank knows its run.

        Args:
            directory: folder of the chunks.
            writer: whether this process writes; true on one rank only.

        Raises:
            ValueError: the folder holds chunks of another run.
        """
        files.refuse_other_runs(Path(directory), self.run_id)
        self._directory, self._writer = Path(directory), writer
        self._adopt()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, the same on every rank, after writing the rows that are in no chunk yet.

        Without a folder it holds the rows. Only tensors, numbers, strings, lists and dicts are in it.
        """
        state = {
            "run_id": self.run_id,
            "capacity": 0 if self.capacity is None else self.capacity,
            "size": len(self),
            "images_seen": self.images_seen,
            "clamped": self._clamped,
            "float_values": self._float_values,
        }
        if self._directory is None:
            return state | {"rows": {name: getattr(self, name).clone() for name in ROW_NAMES}}
        self._flush(self._directory)
        chunks = [{"name": c.path.name, "first": c.first, "length": c.length, "sha256": c.sha256} for c in self._chunks]
        return state | {"directory": str(self._directory), "chunks": chunks}

    def load_state_dict(self, state: Mapping[str, Any], search: Sequence[str | Path] = ()) -> None:
        """Restore the rows byte for byte; this bank's own capacity holds, so a smaller one drops the oldest.

        Args:
            state: what :meth:`state_dict` returned.
            search: folders that may hold the chunks where the recorded one has moved, tried in order.

        Raises:
            FileNotFoundError: a chunk is in none of the folders.
            ValueError: a chunk was altered, or a folder holds the bank of another run.
        """
        chunks: list[files.Chunk] = []
        if self._directory is not None:
            files.refuse_other_runs(self._directory, state["run_id"])
        if "rows" in state:
            batches = [state["rows"]]
        else:
            attached = () if self._directory is None else (self._directory,)
            folders = [Path(folder) for folder in (state["directory"], *search, *attached)]
            chunks = [files.locate_chunk(record, folders, state["run_id"]) for record in state["chunks"]]
            batches = [files.unpack(files.CHUNK_KIND, chunk.path)[0] for chunk in chunks]
        self._start = self._stop = 0
        self._rows = _no_rows()
        for rows in batches:
            self._push((rows["images"], rows["labels"], rows["rounds"]))
        self._start = max(self._start, self._stop - state["size"])
        self._run_id, self.images_seen = state["run_id"], state["images_seen"]
        self._clamped, self._float_values = state["clamped"], state["float_values"]
        self._chunks, self._flushed = chunks, self.images_seen if chunks else 0
        self._adopt()

    def export(self, path: str | Path, num_classes: int | None = None) -> None:
        """Write the live rows as one condensed set, which :meth:`CondensedSet.load` reads.

        Args:
            path: target, ending in ``.safetensors``.
            num_classes: number of classes; by default the largest label + 1.

        Raises:
            ValueError: the bank is empty.
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

    def _push(self, rows: tuple[Tensor, Tensor, Tensor]) -> None:
        if self.capacity is not None:
            images, labels, rounds = (tensor[-self.capacity :] for tensor in rows)
            rows = (images, labels, rounds)
            self._start += max(0, len(self) + len(images) - self.capacity)
        added = len(rows[0])
        if self._stop + added > len(self._rows[0]):
            self._grow(added, rows)
        for buffer, values in zip(self._rows, rows, strict=True):
            buffer[self._stop : self._stop + added] = values
        self._stop += added

    def _grow(self, added: int, rows: Sequence[Tensor]) -> None:
        # Twice what is needed, so that a row is moved a constant number of times on average.
        count, live = len(self), (self.images, self.labels, self.rounds)
        images, labels, rounds = (rows[i].new_empty(2 * (count + added), *rows[i].shape[1:]) for i in range(3))
        self._rows = (images, labels, rounds)
        for buffer, values in zip(self._rows, live, strict=True):
            buffer[:count] = values if count else buffer[:0]
        self._start, self._stop = 0, count

    def _flush(self, directory: Path) -> None:
        oldest = self.images_seen - len(self)
        self._chunks = [chunk for chunk in self._chunks if chunk.first + chunk.length > oldest]
        first = max(self._flushed, oldest)
        if length := self.images_seen - first:
            rows = {name: getattr(self, name)[-length:] for name in ROW_NAMES}
            content = files.pack(files.CHUNK_KIND, rows, {"run_id": self.run_id, "first": first, "length": length})
            digest = hashlib.sha256(content).hexdigest()
            path = directory / f"chunk_{first:09d}_{digest[:12]}.safetensors"
            if self._writer:
                files.write_atomic(path, content)
            self._chunks.append(files.Chunk(path, first, length, digest))
        self._flushed = self.images_seen

    def _adopt(self) -> None:
        if self._directory is None:
            return
        for chunk in self._chunks if self._writer else ():
            files.link_or_copy(chunk.path, self._directory / chunk.path.name)
        self._chunks = [chunk._replace(path=self._directory / chunk.path.name) for chunk in self._chunks]


def _no_rows() -> tuple[Tensor, Tensor, Tensor]:
    integers = torch.empty(0, dtype=torch.int64)
    return torch.empty(0, 0, 0, 0, dtype=torch.uint8), integers, integers
