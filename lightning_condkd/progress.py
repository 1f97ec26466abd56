"""Progress of long work on stderr: a bar in a terminal, else a line now and then; nothing for short work."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import inf
from typing import TypeVar

import torch.distributed as dist
from tqdm import tqdm

from lightning_condkd.messages import duration

Item = TypeVar("Item")
Advance = Callable[[int], object]

BAR_AFTER = 2.0  # seconds until a bar appears
LINE_AFTER, LINE_EVERY = 10.0, 60.0  # seconds until the first line, and between the others
# Where launchers tell a process its rank before the processes are connected, in the order in which Lightning looks.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


@contextmanager
def progress(what: str, total: int, unit: str, *, leave: bool = True) -> Iterator[Advance]:
    """Show how much of some work is done and an estimate of the time left; only on rank 0.

    Args:
        what: the work, such as ``reading the folder``.
        total: number of its parts.
        unit: name of the parts, such as ``images``.
        leave: whether the bar stays when the work has ended.

    Yields:
        A function to call with the number of parts that were finished since the last call.

    Example:
        >>> with progress("reading the folder", 100, "images") as advance:
        ...     for _ in range(100):
        ...         _ = advance(1)
    """
    if not is_shown():
        yield lambda count: None
    elif sys.stderr.isatty():
        with tqdm(desc=what, total=total, unit=f" {unit}", delay=BAR_AFTER, leave=leave, dynamic_ncols=True) as bar:
            yield bar.update
    else:
        yield Lines(what, total, unit).advance


def each(items: Iterable[Item], what: str, total: int, unit: str, *, leave: bool = True) -> Iterator[Item]:
    """Yield items, and show how many of them were used.

    Args:
        items: the items.
        what: see :func:`progress`.
        total: number of the items.
        unit: name of the items.
        leave: see :func:`progress`.

    Example:
        >>> sum(each([1, 2, 3], "adding", 3, "numbers"))
        6
    """
    with progress(what, total, unit, leave=leave) as advance:
        for item in items:
            yield item
            advance(1)


def is_shown() -> bool:
    """Return whether this process shows progress: that of rank 0."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


class Lines:
    """Plain lines about some work, since a bar would fill a log: one after 10 s, then one a minute.

    Args:
        what: see :func:`progress`.
        total: see :func:`progress`; infinity if it is unknown.
        unit: see :func:`progress`.
    """

    def __init__(self, what: str, total: float, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.count, self.start = 0, time.monotonic()
        self.due = self.start + LINE_AFTER

    def advance(self, count: int) -> None:
        """Count finished parts, and print a line if one is due.

        Args:
            count: number of parts that were finished since the last call.
        """
        self.count += count
        now = time.monotonic()
        if now >= self.due and 0 < self.count < self.total:
            print(f"{self.what}: {self._done(now - self.start)}", file=sys.stderr, flush=True)
            self.due = now + LINE_EVERY

    def _done(self, seconds: float) -> str:
        if self.total == inf:
            return f"{self.count} {self.unit}"
        left = seconds / self.count * (self.total - self.count)
        return f"{self.count} of {self.total} {self.unit}, about {duration(left)} left"
