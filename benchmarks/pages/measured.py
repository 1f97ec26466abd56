"""What the result files hold, by file, row and seed; what is not there is refused by name."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.support import result_files
from benchmarks.support.spread import mean_and_deviation

LAST, BEST = "student_accuracy_last", "student_accuracy_best"
PERCENT = 100.0


@cache
def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise LookupError(f"{path.name}: there is no such result file")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def content(file: str) -> dict[str, Any]:
    """Return a result file.

    Args:
        file: its name without ending.

    Raises:
        LookupError: if there is no such file.
    """
    return _read(result_files.RESULTS / f"{file}.json")


def entry(file: str, *path: str | int) -> Any:  # noqa: ANN401 - JSON
    """Return what stands at a path of keys and positions in a result file.

    Raises:
        LookupError: if it is not there; the message names what is.
    """
    found: Any = content(file)
    for key in path:
        there = found if isinstance(found, Mapping) else dict(enumerate(found)) if isinstance(found, list) else {}
        if key not in there:
            raise LookupError(f"{file}.json has no {key!r} in {'/'.join(map(str, path))}; there are: {list(there)}")
        found = there[key]
    return found


def has_row(file: str, row: str) -> bool:
    """Return whether a result file has a row."""
    return row in content(file)["rows"]


def by_seed(file: str, row: str, what: str = LAST, scale: float = PERCENT) -> dict[str, float]:
    """Return one figure of every run of a row, in the order of the seeds.

    Args:
        file: name of a result file with rows and runs.
        row: name of a row.
        what: where the figure is in a run, keys joined by ``/``; of a list, the mean counts.
        scale: factor, by default that of percent.

    Raises:
        LookupError: if there is no such row, or no run has the figure.
    """
    runs = entry(file, "rows", row, "runs")
    found = {seed: _inside(run, what.split("/")) for seed, run in sorted(runs.items())}
    values = {seed: scale * _mean(value) for seed, value in found.items() if value is not None}
    if not values:
        raise LookupError(
            f"{file}.json: no run of {row!r} has {what!r}; the first has: {list(next(iter(runs.values())))}"
        )
    return values


def _inside(run: Any, keys: list[str]) -> Any:  # noqa: ANN401 - JSON
    for key in keys:
        if not isinstance(run, Mapping) or key not in run:
            return None
        run = run[key]
    return run


def _mean(value: float | list[float]) -> float:
    return statistics.mean(value) if isinstance(value, list) else value


def summary(file: str, row: str, what: str = LAST, scale: float = PERCENT) -> dict[str, float]:
    """Return mean and sample standard deviation over the seeds of a row, rounded as result files hold them."""
    values = [*by_seed(file, row, what, 1).values()]
    if len(values) == 1:
        return {"mean": scale * values[0], "std": 0.0}
    return mean_and_deviation(values, scale, 2 if scale == PERCENT else 4)


def differences(file: str, row: str, minus: str, what: str = LAST, other: str | None = None) -> list[float]:
    """Return how many points one row is above another, for each seed that both have.

    Args:
        file: name of the result file of the row.
        row: name of the row.
        minus: name of the row that is subtracted.
        what: see :func:`by_seed`.
        other: result file of the row that is subtracted; ``None`` for the same.

    Raises:
        LookupError: if a row is not there or no seed is in both.
    """
    ours, theirs = by_seed(file, row, what), by_seed(other or file, minus, what)
    gaps = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not gaps:
        raise LookupError(f"{file}.json: {row!r} and {minus!r} have no seed in common")
    return gaps


def origins(file: str) -> tuple[list[str], list[str], str]:
    """Return the commits and versions of torch that a result file names, and its machine."""
    found: dict[str, list[str]] = {"commit": [], "torch": [], "machine": [], "card": []}
    _collect(content(file), found)
    machine = (found["card"] or found["machine"] or [""])[0]
    return _unique(found["commit"]), _unique(found["torch"]), machine.removesuffix(", x86_64")


def _collect(value: Any, found: dict[str, list[str]]) -> None:  # noqa: ANN401 - JSON
    for key, inner in (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    ):
        if key in found and isinstance(inner, str):
            found[str(key)].append(inner)
        else:
            _collect(inner, found)


def _unique(values: list[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]
