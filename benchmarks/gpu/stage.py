"""What a stage of the kit is: named items, each of which runs in a process of its own and returns JSON values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Job(NamedTuple):
    """What an item is told.

    Args:
        device: ``cuda`` or ``cpu``.
        deadline: reading of ``time.monotonic()`` by which the item must have ended.
        folder: scratch folder of this item.
        data: folder of the unpacked pack; it is not there on the CPU.
    """

    device: str
    deadline: float
    folder: Path
    data: Path

    @property
    def small(self) -> bool:
        """Whether this is the dry run, whose sizes are such that a minute on two cores holds all stages."""
        return self.device == "cpu"


@dataclass(frozen=True)
class Stage:
    """One subject of the kit and its result file ``gpu-<name>.json``.

    Args:
        name: of the result file.
        items: names of the items in order, given whether this is the dry run.
        run: does one item; its result has ``"complete": False`` where it stopped before its published length.
        share: of the minutes, relative to the other stages.
        jobs: items side by side.
        least: seconds that must be left for an item to begin, outside the dry run.
        alike: whether its items take about equally long: one begins only where as much time is left as the quickest
            whole one took on such a card.
    """

    name: str
    items: Callable[[bool], list[str]]
    run: Callable[[str, Job], dict[str, Any]]
    share: float
    jobs: int = 1
    least: float = 5.0
    alike: bool = False
