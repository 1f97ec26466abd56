"""Tables of pages: cells that know their seeds, at most five columns, and a line that says where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.pages import figures, measured
from benchmarks.pages.measured import LAST, PERCENT

WIDEST = 5
SEEDS = 3


class Cell(NamedTuple):
    """What stands in a cell.

    Args:
        text: as printed.
        seeds: how many runs it is of; ``None`` where that has no meaning.
    """

    text: str
    seeds: int | None = None


NOT_RUN = Cell("not run", 0)
EMPTY = Cell("-")


@dataclass(frozen=True)
class Table:
    """A table with what must be said below it.

    Args:
        head: names of the columns.
        rows: their cells.
        says: what the numbers are, and the budget.
        files: names of the result files.
        commands: that wrote them.
        seeds: that every cell should have.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    says: str = ""
    files: Sequence[str] = ()
    commands: Sequence[str] = ()
    seeds: int = SEEDS

    def __str__(self) -> str:
        """Return the table in Markdown.

        Raises:
            ValueError: if it is too wide, or a row has another number of cells.
        """
        if len(self.head) > WIDEST:
            raise ValueError(f"expected at most {WIDEST} columns, got {len(self.head)}: {', '.join(self.head)}")
        if wrong := [row for row in self.rows if len(row) != len(self.head)]:
            raise ValueError(f"expected {len(self.head)} cells in every row, got {wrong[0]}")
        cells = [[self._text(cell) for cell in row] for row in self.rows]
        lines = [f"| {' | '.join(map(escaped, row))} |" for row in (self.head, *cells)]
        notes = (" ".join(part for part in (self.says, self._partial()) if part), self._origin())
        below = [line for note in notes if note for line in ("", note)]
        return "\n".join([lines[0], "|" + "---|" * len(self.head), *lines[1:], *below])

    def _counts(self) -> set[int]:
        return {cell.seeds for row in self.rows for cell in row if isinstance(cell, Cell) and cell.seeds is not None}

    def _text(self, cell: Cell | str) -> str:
        if isinstance(cell, str) or cell.seeds in (None, 0, self.seeds) or len(self._counts() - {0}) == 1:
            return cell if isinstance(cell, str) else cell.text
        return f"{cell.text} ({cell.seeds} of {self.seeds})"

    def _partial(self) -> str:
        counts = self._counts()
        if not counts:
            return ""
        if counts == {self.seeds}:
            return f"{self.seeds} seeds." if self.seeds > 1 else "One seed."
        missing, run = ("; some rows have not run" if 0 in counts else ""), counts - {0}
        if len(run) < 2:
            return f"**Partial: {max(counts)} of {self.seeds} seeds{missing}.**"
        return f"**Partial: cells that say so have fewer than {self.seeds} seeds{missing}.**"

    def _origin(self) -> str:
        if not self.files:
            return ""
        found = [measured.origins(file) for file in self.files]
        commits = list(dict.fromkeys(commit for of in found for commit in of[0]))
        versions = list(dict.fromkeys(version for of in found for version in of[1]))
        machine = next(of[2] for of in found)
        facts = [
            *(f"`{command}`" for command in self.commands),
            f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}",
            f"torch {' and '.join(versions)}",
            machine,
            " ".join(f"`benchmarks/results/{file}.json`" for file in self.files),
        ]
        return f"*Source*: {'; '.join(fact for fact in facts if fact)}."


def escaped(text: str) -> str:
    """Return the text of a cell in Markdown, where an asterisk marks guided rows; code stays as it is."""
    parts = text.split("`")
    return "`".join(part if at % 2 else part.replace("*", "\\*") for at, part in enumerate(parts))


def accuracy(file: str, row: str, what: str = LAST, pending: bool = False) -> Cell:
    """Return mean and deviation of a row in percent.

    Args:
        file: name of a result file.
        row: name of a row.
        what: where the figure is in a run.
        pending: whether the row may be missing because it has not run yet.

    Raises:
        LookupError: if there is no such row and it is not pending.
    """
    if pending and not measured.has_row(file, row):
        return NOT_RUN
    return figure(file, row, what, 1, PERCENT)


def figure(file: str, row: str, what: str, decimals: int = 1, scale: float = 1, spread: bool = True) -> Cell:
    """Return a figure of a row as mean, with or without the deviation over the seeds."""
    text = (figures.last if spread else figures.mean)(file, row, what, decimals, scale)
    return Cell(text, len(measured.by_seed(file, row, what)))


def by_seed(file: str, row: str, what: str = LAST) -> Cell:
    """Return the values of a row in the order of the seeds."""
    return Cell(figures.seeds(file, row, what))


def gains(file: str, row: str, minus: str, what: str = LAST) -> Cell:
    """Return by how many points a row is above another, seed by seed."""
    return Cell(figures.gaps(file, row, minus, what, sign=True).replace(", ", " / "))


def budget(file: str, rows: Sequence[str] = ()) -> str:
    """Return the rounds and synthetic images of the runs of a file, or of some of its rows."""
    entries = measured.content(file)["rows"]
    runs = [run for row in rows or entries for run in entries[row]["runs"].values()]
    rounds = sorted({run["rounds"] for run in runs})
    images = max(_images(run) for run in runs)
    return f"{' or '.join(map(str, rounds))} rounds, up to {images:,} synthetic images."


def _images(run: Mapping[str, int]) -> int:
    return next(run[key] for key in ("images_synthesized", "images_synthesised") if key in run)
