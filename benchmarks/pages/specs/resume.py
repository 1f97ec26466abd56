"""Runs that are killed at random moments and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages import measured
from benchmarks.pages.layout import Table

BEFORE, AFTER = "chaos-before", "chaos"
SUBJECTS = {"quickstart": "the quickstart", "dm": "DM", "experts": "experts of MTT"}
COMMAND = "python benchmarks/resume/killed_runs.py"
ABORTED = -6


def counted(file: str) -> Table:
    """Return how many cases of each kind hold, and how far they ended from the run left alone."""
    cases: Mapping[str, Mapping[str, Any]] = measured.entry(file, "cases")
    rows = []
    for subject, label in SUBJECTS.items():
        for ways, how in (("two processes", "two"), ("two, one, two processes", "two, one, two")):
            found = [of for name, of in cases.items() if name.startswith(subject) and name.split(", ", 2)[2] == ways]
            holding = sum(not of["broken"] for of in found)
            aborted = sum(ABORTED in one["codes"] for of in found for one in of["attempts"])
            points = [of["points"] for of in found if of.get("points") is not None]
            rows.append(
                [label, how, f"{holding} of {len(found)}", f"{max(points):.1f}" if points else "-", str(aborted)]
            )
    says = "_Points_: largest difference of the last accuracy from the run left alone. _Aborted_: processes that the "
    says += "library of the processes aborted at their exit."
    head = ("run", "processes", "cases that hold", "points", "aborted")
    return Table(head, rows, says, (file,), (COMMAND,))


TABLES = {"resume-before": lambda: counted(BEFORE), "resume": lambda: counted(AFTER)}
