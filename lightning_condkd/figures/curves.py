"""Figure of metrics over the rounds of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lightning_condkd.figures.canvas import colors, empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, COLUMNS = 5.0, 3.4, 3  # inches of a panel; panels in a row
DASHES = ("--", ":", "-.")


class Curve(NamedTuple):
    """One metric of one run.

    Args:
        rounds: rounds or epochs, from 0.
        values: value of the metric after each.
    """

    rounds: Sequence[float]
    values: Sequence[float]


def curve_figure(
    panels: Mapping[str, Mapping[str, Curve]],
    runs: Sequence[str],
    levels: Mapping[str, Mapping[str, float]] | None = None,
    unit: str = "round",
) -> Figure:
    """Return a figure with a panel for each metric and a line for each run, in the same color in all panels.

    Args:
        panels: curves by the name of the run, by the title of the panel.
        runs: names of all runs, in the order of the legend.
        levels: further horizontal lines by their name, such as the teacher's accuracy, by the title of the panel.
        unit: what the horizontal axis counts.

    Example:
        >>> curves, levels = {"accuracy": {"mixed": Curve([0, 1], [0.1, 0.9])}}, {"accuracy": {"teacher": 0.98}}
        >>> [line.get_label() for line in curve_figure(curves, ["mixed"], levels).axes[0].lines]
        ['mixed', 'teacher']
    """
    columns = min(COLUMNS, len(panels))
    figure, axes = empty_figure(WIDTH * columns, HEIGHT * -(-len(panels) // columns), len(panels), columns)
    shades = dict(zip(runs, colors(len(runs)), strict=True))
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        for run in (run for run in runs if run in curves):
            rounds, values = curves[run]
            panel.plot([one + 1 for one in rounds], values, "o-"[len(values) > 1 :], color=shades[run], label=run)
        _levels(panel, (levels or {}).get(title, {}))
        panel.set(title=title, xlabel=unit)
        panel.grid(alpha=0.3)
    axes[0].legend(loc="best", fontsize="small")
    return figure


def _levels(panel: Axes, levels: Mapping[str, float]) -> None:
    for number, (name, value) in enumerate(levels.items()):
        panel.axhline(value, color="gray", linestyle=DASHES[number % len(DASHES)], label=name)
