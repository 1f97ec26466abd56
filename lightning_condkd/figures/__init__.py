"""Figures of runs: feature maps, curves, bars and grids of images; they need matplotlib, of the extra ``plots``."""

from lightning_condkd.figures.bars import bar_figure
from lightning_condkd.figures.canvas import check_matplotlib, figure_pixels, png, shown_names
from lightning_condkd.figures.curves import Curve, curve_figure
from lightning_condkd.figures.feature_map import feature_figure
from lightning_condkd.figures.feature_points import LabeledImages, LabeledPoints, feature_points
from lightning_condkd.figures.image_rows import rows_by_class, rows_by_source

__all__ = [
    "Curve",
    "LabeledImages",
    "LabeledPoints",
    "bar_figure",
    "check_matplotlib",
    "curve_figure",
    "feature_figure",
    "feature_points",
    "figure_pixels",
    "png",
    "rows_by_class",
    "rows_by_source",
    "shown_names",
]
