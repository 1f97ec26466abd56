"""Rows of a memory bank in growing buffers, whose newest rows are live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROW_NAMES = ("images", "labels", "rounds")
Rows = tuple[Tensor, Tensor, Tensor]


class BankRows(NamedTuple):
    """The rows of a bank and their counts, replaced together, so that a save in a signal handler has whole appends.

    Args:
        rows: buffers of images, labels and rounds; those from ``start`` to ``stop`` are live.
        start: the oldest live row.
        stop: the row after the newest.
        seen: number of rows appended so far.
        clamped: number of pixel values that were clamped.
        float_values: number of floating point pixel values appended so far.
    """

    rows: Rows
    start: int = 0
    stop: int = 0
    seen: int = 0
    clamped: int = 0
    float_values: int = 0

    def newest(self, count: int) -> dict[str, Tensor]:
        """Return views of the newest rows by name.

        Args:
            count: number of rows.
        """
        return dict(zip(ROW_NAMES, (b[self.stop - count : self.stop] for b in self.rows), strict=True))

    @property
    def size(self) -> int:
        """Number of live rows."""
        return self.stop - self.start

    def pushed(self, rows: Rows, capacity: int | None) -> BankRows:
        """Return the rows with newer ones appended; the oldest beyond a capacity are dropped.

        Args:
            rows: images, labels and rounds.
            capacity: largest number of live rows; ``None`` for no limit.
        """
        start = self.start
        if capacity is not None:
            images, labels, rounds = (tensor[-capacity:] for tensor in rows)
            rows = (images, labels, rounds)
            start += max(0, self.size + len(images) - capacity)
        live, added = self._replace(start=start), len(rows[0])
        if live.stop + added > len(live.rows[0]):
            live = live._grown(added, rows)
        for buffer, values in zip(live.rows, rows, strict=True):
            buffer[live.stop : live.stop + added] = values
        return live._replace(stop=live.stop + added)

    def _grown(self, added: int, rows: Sequence[Tensor]) -> BankRows:
        # Twice the needed size, so that a row is moved a constant number of times on average.
        images, labels, rounds = (tensor.new_empty(2 * (self.size + added), *tensor.shape[1:]) for tensor in rows)
        for buffer, old in zip((images, labels, rounds), self.newest(self.size).values(), strict=True):
            buffer[: self.size] = old if self.size else buffer[:0]
        return self._replace(rows=(images, labels, rounds), start=0, stop=self.size)


def no_rows() -> BankRows:
    """Return the rows of an empty bank."""
    integers = torch.empty(0, dtype=torch.int64)
    return BankRows((torch.empty(0, 0, 0, 0, dtype=torch.uint8), integers, integers))


def loaded_rows(batches: Sequence[Mapping[str, Tensor]], state: Mapping[str, Any], capacity: int | None) -> BankRows:
    """Return the rows of a saved state.

    Args:
        batches: images, labels and rounds by name, oldest first.
        state: the state, with its counts.
        capacity: largest number of live rows; ``None`` for no limit.
    """
    live = no_rows()
    for rows in batches:
        live = live.pushed((rows["images"], rows["labels"], rows["rounds"]), capacity)
    counts = state["images_seen"], state["clamped"], state["float_values"]
    return BankRows(live.rows, max(live.start, live.stop - state["size"]), live.stop, *counts)


def check_whole(state: Mapping[str, Any]) -> None:
    """Check that a state has every row from the oldest to the newest exactly once.

    Args:
        state: the state of a bank.

    Raises:
        ValueError: if rows are missing or doubled.
    """
    size, seen = state["size"], state["images_seen"]
    if "rows" in state:
        held = [(0, len(state["rows"]["labels"]))]
    else:
        held = [(chunk["first"], chunk["length"]) for chunk in state["chunks"]]
    first = held[0][0] if held else seen
    ends = [start + length for start, length in held]
    broken = any(end != start for end, (start, _) in zip(ends, held[1:], strict=False))
    short = ends[-1] - first < size if held else size > 0
    if broken or short or ("chunks" in state and ends and ends[-1] != seen):
        raise ValueError(
            f"the checkpoint's memory bank is damaged: expected {size} rows without gap or overlap up to row {seen}, "
            f"got (first, number) {held}: resume from another checkpoint"
        )
