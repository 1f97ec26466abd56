"""What the figures contain, and how they become pixels and files."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_condkd.figures import (
    Curve,
    LabeledImages,
    LabeledPoints,
    bar_figure,
    check_matplotlib,
    curve_figure,
    feature_figure,
    feature_points,
    figure_pixels,
    png,
    rows_by_class,
    rows_by_source,
    shown_names,
)
from lightning_condkd.figures.canvas import colors, empty_figure
from lightning_condkd.randomness import seeded_generator
from tests.helpers import toy

pytest.importorskip("matplotlib")


def labeled(count: int, shade: float | None = None) -> LabeledImages:
    images = torch.rand(count, *toy.SHAPE, generator=seeded_generator(count, "images"))
    return LabeledImages(images if shade is None else torch.full_like(images, shade), torch.arange(count) % toy.CLASSES)


def points(count: int) -> LabeledPoints:
    return LabeledPoints(torch.rand(count, 2, generator=seeded_generator(0, "points")), torch.arange(count) % 3)


def test_a_figure_becomes_the_pixels_that_it_shows() -> None:
    figure, (panel,) = empty_figure(2.0, 1.0)
    panel.set_position((0, 0, 1, 1))
    panel.axis("off")
    figure.set_layout_engine("none")
    panel.imshow([[0.0, 1.0]], cmap="gray", aspect="auto")
    pixels = figure_pixels(figure)
    assert pixels.shape == (3, 100, 200)
    assert bool((pixels[:, 10:90, 10:90] == 0).all())
    assert bool((pixels[:, 10:90, 110:190] == 1).all())


def test_a_png_is_exact_and_a_palette_is_smaller() -> None:
    pixels = figure_pixels(feature_figure({"map": {"real": points(30)}}, ["cat", "dog", "owl"]))
    whole, small = png(pixels), png(pixels, palette=True)
    read = torch.frombuffer(bytearray(Image.open(io.BytesIO(whole)).tobytes()), dtype=torch.uint8)
    assert torch.equal(read.view(*pixels.shape[1:], 3).permute(2, 0, 1), (255 * pixels).round().byte())
    assert len(small) < len(whole)
    assert Image.open(io.BytesIO(small)).size == Image.open(io.BytesIO(whole)).size


def test_a_missing_matplotlib_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"^draw draws with the package matplotlib: pip install 'light"):
        check_matplotlib("draw")


@pytest.mark.parametrize("count", [1, 10, 20, 100])
def test_colors_differ(count: int) -> None:
    assert len(set(colors(count))) == count


def marks(panel: Any) -> list[tuple[int, list[Any]]]:
    """The number and the colors of the points of each source of a panel."""
    drawn = [one for one in panel.collections if len(one.get_offsets())]
    return [(len(one.get_offsets()), one.get_facecolors()[:3].tolist()) for one in drawn]


def test_a_feature_map_has_a_color_for_each_class_and_a_mark_for_each_source() -> None:
    panels = {"plain": {"real": points(9), "condensed": points(3)}, "guided": {"synthetic": points(6)}}
    figure = feature_figure(panels, ["cat", "dog", "owl"])  # type: ignore[arg-type]
    plain, guided = figure.axes
    assert [panel.get_title() for panel in figure.axes] == ["plain", "guided"]
    assert [count for count, _ in marks(plain)] == [9, 3]
    assert [count for count, _ in marks(guided)] == [6]
    assert [color[:3] for color in marks(plain)[1][1]] == [list(color[:3]) for color in colors(3)]
    assert plain.get_xlim() == guided.get_xlim()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["real", "synthetic", "condensed", "cat", "dog", "owl"]


def test_many_classes_are_not_listed() -> None:
    figure = feature_figure({"map": {"real": points(9)}}, shown_names(21, None))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["real"]


def test_all_sources_share_one_plane() -> None:
    teacher = toy.observed(toy.network("teacher")).freeze()
    condensed, real = labeled(6), labeled(40)
    found = feature_points(teacher, {"real": real, "again": real, "condensed": condensed, "none": labeled(0)})
    assert list(found) == ["real", "again", "condensed"]
    assert found["condensed"].labels.tolist() == condensed.labels.tolist()
    apart = (found["real"].points - found["again"].points).norm(dim=1)
    assert float(apart.median()) < 0.05 * float(torch.pdist(found["real"].points).median())


def test_images_of_a_source_are_bounded_and_evenly_spaced() -> None:
    chosen = labeled(30).chosen(max_images=5, max_classes=2)
    assert chosen.labels.max() == 1
    assert torch.equal(chosen.images[0], labeled(30).images[0])
    assert len(chosen.images) == len(chosen.labels) == 5
    assert torch.equal(chosen.images[-1], labeled(30).images[28])  # the last one of class 0 or 1


def test_curves_have_one_color_for_a_run_in_all_panels() -> None:
    panels = {
        "accuracy": {"a": Curve([0, 1], [0.1, 0.5]), "b": Curve([0], [0.3])},
        "loss": {"b": Curve([0, 1], [2, 1])},
    }
    figure = curve_figure(panels, ["a", "b"], {"accuracy": {"teacher": 0.9}})
    accuracy, loss = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["a", "b", "teacher"]
    assert accuracy.lines[0].get_xdata().tolist() == [1, 2]
    assert accuracy.lines[0].get_ydata().tolist() == [0.1, 0.5]
    assert accuracy.lines[1].get_marker() == "o"  # one value is no line
    assert accuracy.lines[1].get_color() == loss.lines[0].get_color() != accuracy.lines[0].get_color()
    assert set(accuracy.lines[2].get_ydata()) == {0.9}


def test_bars_are_stacked() -> None:
    figure = bar_figure({"a": {"first": 1.0, "second": 2.0}, "b": {"second": 4.0, "none": 0.0}}, "time", "s")
    widths = [(bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches]
    assert widths == [(0, 1), (0, 0), (1, 2), (0, 4)]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["first", "second"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "4"]


def cell(picture: Tensor, row: int, column: int, columns: int) -> Tensor:
    """The image in a place of a grid of 64 pixels an image, counted from the right."""
    right = picture.shape[2] - 2 - (columns - 1 - column) * 66
    return picture[:, 2 + 66 * row : 66 * (row + 1), right - 64 : right]


def test_a_source_has_a_row_of_its_last_images_and_gray_where_it_has_none() -> None:
    lacking = LabeledImages(labeled(9).images[:2], torch.tensor([0, 1]))
    picture = rows_by_source({"bright": labeled(6, 1.0), "lacking": lacking}, num_classes=3)
    assert bool((cell(picture, 0, 2, 3) == 1).all())
    assert bool((cell(picture, 1, 2, 3) == 0.5).all())
    assert torch.equal(cell(picture, 1, 1, 3)[0, ::8, ::8], lacking.images[1, 0])
    newest = rows_by_source({"a": labeled(9)}, num_classes=3)
    assert torch.equal(cell(newest, 0, 0, 3)[0, ::8, ::8], labeled(9).images[6, 0])


def test_a_class_has_a_row_for_each_source() -> None:
    picture = rows_by_class({"dark": labeled(3, 0.0), "bright": labeled(6, 1.0)}, ["cat", "dog"], columns=2)
    assert picture.shape[1] == 4 * 66 + 2
    assert bool((cell(picture, 2, 0, 2) == 0).all())
    assert bool((cell(picture, 3, 1, 2) == 1).all())
