"""Figures for the logs: running means on the device, seconds by phase, and figures of the bank."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.distributed import mean_over_ranks


class Meters:
    """Means of detached scalars by name; reading them resets them.

    Example:
        >>> import torch
        >>> meters = Meters()
        >>> meters.add({"loss": torch.tensor(1.0)})
        >>> meters.add({"loss": torch.tensor(3.0)})
        >>> meters.pop()
        {'loss': tensor(2.)}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, values: Mapping[str, Tensor], prefix: str = "") -> None:
        """Add one observation of each value.

        Args:
            values: scalars.
            prefix: prefix of every name.
        """
        for name, value in values.items():
            key = prefix + name
            known = self._sums.get(key)
            self._sums[key] = value.detach().clone() if known is None else known.to(value.device) + value.detach()
            self._counts[key] += 1

    def pop(self) -> dict[str, Tensor]:
        """Return the means since the last call."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        return means

    def state(self) -> dict[str, Any]:
        """Return the values added since the last :meth:`pop`; with several ranks, their mean."""
        sums = {name: mean_over_ranks(total).cpu() for name, total in sorted(self._sums.items())}
        return {"sums": sums, "counts": dict(self._counts)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the values added before.

        Args:
            state: result of :meth:`state`.
        """
        self._sums = dict(state["sums"])
        self._counts = defaultdict(int, state["counts"])


def bank_figures(bank: MemoryBank, num_classes: int) -> dict[str, float]:
    """Return size, clamped share and label balance of a bank.

    Args:
        bank: the memory bank.
        num_classes: number of classes K.

    Example:
        >>> bank_figures(MemoryBank(), num_classes=10)
        {'images': 0.0, 'clamped_share': 0.0}
    """
    figures = {"images": float(bank.images_seen), "clamped_share": bank.clamped_share}
    if not len(bank):
        return figures
    share = bank.label_counts(num_classes).float() / len(bank)
    return figures | {"label_share_min": float(share.min()), "label_share_max": float(share.max())}


class Stopwatch:
    """Seconds of wall clock by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def running(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to a phase.

        Args:
            phase: name of the phase.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
