"""Figure of images as points in the plane: a color for each class, a marker for each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning_condkd.figures.canvas import MOST_LISTED, colors, empty_figure
from lightning_condkd.figures.feature_points import LabeledPoints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Source = Literal["real", "condensed", "synthetic"]
SIDE = 5.0  # inches of a panel
# Condensed images are few and drawn last, on top of the others.
MARKERS: dict[Source, dict[str, Any]] = {
    "real": {"marker": "o", "s": 12, "alpha": 0.35, "linewidths": 0},
    "synthetic": {"marker": "x", "s": 22, "alpha": 0.9, "linewidths": 1.1},
    "condensed": {"marker": "*", "s": 190, "edgecolors": "black", "linewidths": 0.9},
}


def feature_figure(panels: Mapping[str, Mapping[Source, LabeledPoints]], class_names: Sequence[str]) -> Figure:
    """Return a figure with a panel for each group of sources, such as a run; all panels have the same limits.

    Args:
        panels: points by source, by the title of the panel.
        class_names: names of the classes, which the legend lists up to 20.

    Example:
        >>> import torch
        >>> points = LabeledPoints(torch.rand(3, 2), torch.tensor([0, 1, 1]))
        >>> figure = feature_figure({"t-SNE": {"condensed": points}}, ["cat", "dog"])
        >>> figure.axes[0].get_title()
        't-SNE'
    """
    figure, axes = empty_figure(SIDE * len(panels) + 1.3, SIDE + 0.3, len(panels), len(panels))
    shades = colors(len(class_names))
    for panel, (title, sources) in zip(axes, panels.items(), strict=True):
        panel.set(title=title, xticks=[], yticks=[])
        for source in (source for source in MARKERS if source in sources):
            points, labels = sources[source]
            chosen = [shades[label] for label in labels.tolist()]
            panel.scatter(points[:, 0], points[:, 1], c=chosen, **MARKERS[source])
    _share_limits(axes)
    _legend(figure, axes[0], class_names, [source for source in MARKERS if any(source in of for of in panels.values())])
    return figure


def _share_limits(axes: Sequence[Axes]) -> None:
    for axis in ("x", "y"):
        limits = [limit for panel in axes for limit in getattr(panel, f"get_{axis}lim")()]
        for panel in axes:
            getattr(panel, f"set_{axis}lim")(min(limits), max(limits))


def _legend(figure: Figure, panel: Axes, class_names: Sequence[str], sources: Sequence[Source]) -> None:
    gray = [panel.scatter([], [], c="gray", label=source, **{**MARKERS[source], "alpha": 1}) for source in sources]
    listed = class_names if len(class_names) <= MOST_LISTED else ()
    shades = colors(len(class_names))
    squares = [panel.scatter([], [], color=shades[label], marker="s", label=name) for label, name in enumerate(listed)]
    figure.legend(handles=[*gray, *squares], loc="outside right center", frameon=False)
