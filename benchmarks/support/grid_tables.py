"""Tables of the grid of losses and images."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.support.set_tables import Table, spread

SEPARATOR = " on "
BASELINE = "KD"


def accuracies(content: dict[str, Any]) -> Table:
    """Return the last accuracy of every loss on every kind of images."""
    return _grid(content, lambda entry: spread(entry["last"], len(entry["runs"])))


def differences(content: dict[str, Any]) -> Table:
    """Return how far the last accuracy is above that of KD with the same seed: mean and deviation over the seeds."""
    entries = content["rows"]
    table = [["minus KD", *_kinds(content)]]
    for loss in (loss for loss in _losses(content) if loss != BASELINE):
        table.append([loss, *(_difference(entries, loss, kind) for kind in _kinds(content))])
    return table


def figures(content: dict[str, Any]) -> Table:
    """Return best accuracy, agreement with the teacher and calibration error."""

    def cell(entry: dict[str, Any]) -> str:
        found = [entry["best"], entry["figures"]["agreement"], entry["figures"]["calibration_error"]]
        return " / ".join(f"{one['mean']:.1f}" for one in found)

    return _grid(content, cell, "best / agreement / calibration error")


def _grid(content: dict[str, Any], cell: Callable[[dict[str, Any]], str], title: str = "loss") -> Table:
    entries = content["rows"]
    table = [[title, *_kinds(content)]]
    for loss in _losses(content):
        found = [entries.get(f"{loss}{SEPARATOR}{kind}") for kind in _kinds(content)]
        table.append([loss, *("-" if entry is None else cell(entry) for entry in found)])
    return table


def _difference(entries: dict[str, Any], loss: str, kind: str) -> str:
    ours, theirs = (entries.get(f"{name}{SEPARATOR}{kind}", {"runs": {}})["runs"] for name in (loss, BASELINE))
    last = "student_accuracy_last"
    gaps = [100 * (ours[seed][last] - theirs[seed][last]) for seed in sorted(ours) if seed in theirs]
    if not gaps:
        return "-"
    mean = f"{statistics.mean(gaps):+.1f}"
    return mean if len(gaps) < 2 else f"{mean} ± {statistics.stdev(gaps):.1f}"


def _losses(content: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.rsplit(SEPARATOR, 1)[0] for name in content["rows"]))


def _kinds(content: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.rsplit(SEPARATOR, 1)[1] for name in content["rows"]))
