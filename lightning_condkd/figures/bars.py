"""Figure of stacked bars, such as the seconds of each phase of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_condkd.figures.canvas import colors, empty_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, BAR = 7.0, 0.42  # inches of the figure, and of a bar


def bar_figure(bars: Mapping[str, Mapping[str, float]], title: str, unit: str) -> Figure:
    """Return a figure with a horizontal bar for each run, stacked of its parts.

    Args:
        bars: sizes of the parts by their name, by the name of the run; parts of size 0 are left out.
        title: title of the figure.
        unit: unit of the sizes.

    Example:
        >>> figure = bar_figure({"mixed": {"synthesize": 2.0, "distill": 6.0}}, "time", "s")
        >>> [round(bar.get_width()) for bar in figure.axes[0].patches]
        [2, 6]
    """
    figure, (panel,) = empty_figure(WIDTH, 1.1 + BAR * len(bars))
    parts = list(dict.fromkeys(name for sizes in bars.values() for name, size in sizes.items() if size))
    ends = dict.fromkeys(bars, 0.0)
    for name, shade in zip(parts, colors(len(parts)), strict=True):
        sizes = [of.get(name, 0.0) for of in bars.values()]
        panel.barh(list(bars), sizes, left=list(ends.values()), height=0.7, color=shade, label=name)
        ends = {run: end + size for (run, end), size in zip(ends.items(), sizes, strict=True)}
    for row, end in enumerate(ends.values()):
        panel.annotate(f"{end:.3g}", (end, row), xytext=(4, 0), textcoords="offset points", va="center")
    panel.invert_yaxis()  # the first run at the top
    panel.margins(x=0.1)
    panel.set(title=title, xlabel=unit)
    if len(parts) > 1:
        panel.legend(fontsize="small")
    return figure
