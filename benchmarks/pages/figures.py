"""The figures that a sentence of a page may hold: one function each, called with literals alone."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.pages import measured, published
from benchmarks.pages.measured import LAST, PERCENT

Path = Sequence[str | int]


def points(difference: float, sign: bool = False) -> str:
    """Return a difference with one decimal, without a sign before zero unless signs are asked for."""
    rounded = round(difference, 1) + 0.0
    return f"{rounded:{'+' if sign else ''}.1f}"


def last(file: str, row: str, what: str = LAST, decimals: int = 1, scale: float = PERCENT) -> str:
    """Return mean and sample standard deviation over the seeds of a row; the value alone if there is one seed."""
    found = measured.summary(file, row, what, scale)
    several = len(measured.by_seed(file, row, what)) > 1
    spread = f" ± {found['std']:.{decimals}f}" if several else ""
    return f"{found['mean']:.{decimals}f}{spread}"


def mean(file: str, row: str, what: str = LAST, decimals: int = 1, scale: float = PERCENT) -> str:
    """Return the mean over the seeds of a row."""
    return f"{measured.summary(file, row, what, scale)['mean']:.{decimals}f}"


def deviation(file: str, row: str, what: str = LAST) -> str:
    """Return the sample standard deviation over the seeds of a row."""
    return f"{measured.summary(file, row, what)['std']:.1f}"


def seeds(file: str, row: str, what: str = LAST) -> str:
    """Return the values of a row in the order of the seeds."""
    return " / ".join(f"{value:.1f}" for value in measured.by_seed(file, row, what).values())


def count(file: str, row: str) -> str:
    """Return how many seeds a row has."""
    return str(len(measured.by_seed(file, row)))


def runs(file: str, row: str, what: str = LAST) -> str:
    """Return how many seeds a row has, in words."""
    found = len(measured.by_seed(file, row, what))
    return "one seed" if found == 1 else f"{found} seeds"


def gap(file: str, row: str, minus: str, what: str = LAST, other: str | None = None) -> str:
    """Return by how many points a row is above another, as mean over the seeds that both have."""
    gaps = measured.differences(file, row, minus, what, other)
    return points(sum(gaps) / len(gaps))


def gaps(file: str, row: str, minus: str, what: str = LAST, other: str | None = None, sign: bool = False) -> str:
    """Return by how many points a row is above another, seed by seed."""
    found = measured.differences(file, row, minus, what, other)
    return ", ".join(points(one, sign) for one in found)


def gaps_within(file: str, row: str, what: str, minus: str, sign: bool = False) -> str:
    """Return by how many points one figure of a row is above another of its figures, seed by seed."""
    ours, theirs = measured.by_seed(file, row, what), measured.by_seed(file, row, minus)
    return ", ".join(points(ours[seed] - theirs[seed], sign) for seed in ours if seed in theirs)


def gap_range(file: str, row: str, minus: str, what: str = LAST) -> str:
    """Return the least and the most that a row is above another over the seeds."""
    found = measured.differences(file, row, minus, what)
    return f"{points(min(found))} to {points(max(found))}"


def range_of_gaps(file: str, pairs: Sequence[tuple[str, str]], what: str = LAST, decimals: int = 1) -> str:
    """Return the least and the most of the mean differences of several pairs of rows."""
    found = [sum(gaps) / len(gaps) for gaps in (measured.differences(file, *pair, what) for pair in pairs)]
    return f"{min(found):.{decimals}f} to {max(found):.{decimals}f}"


def range_of_means(file: str, rows: Sequence[str], what: str = LAST, decimals: int = 1, scale: float = PERCENT) -> str:
    """Return the least and the most of the means of several rows."""
    found = [measured.summary(file, row, what, scale)["mean"] for row in rows]
    return f"{min(found):.{decimals}f} to {max(found):.{decimals}f}"


def below(file: str, pairs: Sequence[tuple[str, str]], what: str) -> str:
    """Return in how many of the runs of several pairs of rows the first row's figure is below the second's."""
    found = [gap for pair in pairs for gap in measured.differences(file, *pair, what)]
    return f"{sum(gap < 0 for gap in found)} of {len(found)}"


def distance(file: str, row: str, what: str) -> str:
    """Return a distance in the teacher's feature space, or a diversity, as mean over the seeds."""
    return mean(file, row, f"embeddings/{what}", 2, 1)


def value(file: str, path: Path, decimals: int = 1, scale: float = 1) -> str:
    """Return the number at a path of a result file."""
    return f"{scale * float(measured.entry(file, *path)):,.{decimals}f}"


def power(file: str, path: Path) -> str:
    """Return the number at a path with one digit and a power of ten."""
    mantissa, exponent = f"{float(measured.entry(file, *path)):.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def size(file: str, path: Path) -> str:
    """Return how many entries there are at a path."""
    return str(len(measured.entry(file, *path)))


def value_range(file: str, paths: Sequence[Path], decimals: int = 1, scale: float = 1) -> str:
    """Return the least and the most of the numbers at several paths."""
    found = [scale * float(measured.entry(file, *path)) for path in paths]
    return f"{min(found):,.{decimals}f} to {max(found):,.{decimals}f}"


FIGURES: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        last,
        mean,
        deviation,
        seeds,
        count,
        runs,
        gap,
        gaps,
        gaps_within,
        gap_range,
        range_of_gaps,
        range_of_means,
        below,
        distance,
        value,
        power,
        size,
        value_range,
        published.number,
    )
}


def evaluate(call: str) -> str:
    """Return the figure of a call such as ``mean("cifar10", "Fast")``; nothing else is run.

    Args:
        call: name of a function of this file with literal arguments.

    Raises:
        ValueError: if it is no such call.
        LookupError: if a result file does not have what it asks for.
    """
    try:
        node = ast.parse(call, mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError("no call")
        arguments = [ast.literal_eval(one) for one in node.args]
        named: dict[str, Any] = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"expected a figure with literal arguments, got {call!r}") from error
    if node.func.id not in FIGURES:
        raise ValueError(f"expected one of {', '.join(FIGURES)}, got {node.func.id!r}")
    return FIGURES[node.func.id](*arguments, **named)
