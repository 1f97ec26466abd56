"""Pictures of images by class show every image where it belongs, with the name of its class, and no empty columns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd import image_grids
from lightning_condkd.image_grids import GAP, INK, PAPER, labeled_grid

NAMES = ["cat", "dog", "emu"]
LABELS = torch.tensor([2, 0, 0, 2, 2])


def plain(shades: list[float], channels: int = 1, size: int = 8) -> Tensor:
    return torch.tensor(shades).view(-1, 1, 1, 1).expand(-1, channels, size, size)


def cell(grid: Tensor, row: int, column: int, columns: int, size: int = 64) -> Tensor:
    """Return a shown image: the columns are counted from the right edge, as the names are on the left."""
    left = grid.shape[2] - (columns - column) * (size + GAP)
    top = GAP + row * (size + GAP)
    return grid[:, top : top + size, left : left + size]


def name_column(grid: Tensor, columns: int, size: int = 64) -> Tensor:
    return grid[:, :, : grid.shape[2] - GAP - columns * (size + GAP)]


def test_every_image_is_in_the_row_of_its_class() -> None:
    shades = [0.3, 0.4, 0.5, 0.6, 0.7]
    grid = labeled_grid(plain(shades), LABELS, NAMES, columns=10)
    assert grid.shape[:2] == (3, 3 * (64 + GAP) + GAP)
    shown = [[float(cell(grid, row, column, 3).unique().item()) for column in range(3)] for row in range(3)]
    expected = [[0.4, 0.5, PAPER], [PAPER] * 3, [0.3, 0.6, 0.7]]
    assert torch.tensor(shown).allclose(torch.tensor(expected))


def test_there_are_no_empty_columns_and_at_most_as_many_as_allowed() -> None:
    widths = {columns: labeled_grid(plain([0.5] * 5), LABELS, NAMES, columns=columns).shape[2] for columns in (2, 3, 9)}
    assert widths[9] == widths[3] == widths[2] + 64 + GAP


@pytest.mark.parametrize(("size", "shown"), [(8, 64), (28, 84), (32, 64), (64, 64), (100, 100)])
def test_small_images_are_enlarged_by_a_whole_factor_without_smoothing(size: int, shown: int) -> None:
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    grid = labeled_grid(image, torch.tensor([0]), ["a"], columns=1)
    factor = shown // size
    assert torch.equal(cell(grid, 0, 0, 1, shown), image[0].repeat_interleave(factor, 1).repeat_interleave(factor, 2))


def test_oblong_images_keep_their_shape() -> None:
    grid = labeled_grid(torch.rand(1, 3, 16, 32), torch.tensor([0]), ["a"], columns=1)
    assert grid.shape[1] == 32 + 2 * GAP


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels(channels: int) -> None:
    image = torch.rand(1, channels, 64, 64)
    shown = cell(labeled_grid(image, torch.tensor([0]), ["a"], columns=1), 0, 0, 1)
    assert torch.equal(shown, image[0] if channels == 3 else image[0].mean(0, keepdim=True).expand(3, -1, -1))


def test_pixels_outside_are_clipped() -> None:
    grid = labeled_grid(plain([-1.0, 2.0]), torch.tensor([0, 0]), ["a"], columns=2)
    assert (cell(grid, 0, 0, 2).max(), cell(grid, 0, 1, 2).min()) == (0, 1)


def test_each_row_has_its_name() -> None:
    grid = labeled_grid(plain([0.5] * 5), LABELS, NAMES, columns=3)
    column = name_column(grid, 3)
    bands = [column[0, GAP + row * 66 : GAP + row * 66 + 64] for row in range(3)]
    assert all(band.min() < INK + 0.1 for band in bands)
    assert not torch.equal(bands[0], bands[1])
    assert not torch.equal(bands[1], bands[2])
    again = labeled_grid(plain([0.5] * 5), LABELS, ["dog", "dog", "cat"], columns=3)
    assert torch.equal(name_column(again, 3)[0, GAP : GAP + 64], bands[1])


def test_names_of_any_length_and_script() -> None:
    short, long = (
        labeled_grid(plain([0.5]), torch.tensor([0]), [name], columns=1).shape[2] for name in ("a", "猫 " + "w" * 500)
    )
    assert short < long < 600
    assert labeled_grid(plain([0.5]), torch.tensor([0]), [""], columns=1).shape[1] == 64 + 2 * GAP


def test_large_pictures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_grids, "MOST_PIXELS", 30_000)
    labels = torch.arange(10).repeat(10)
    names = [str(label) for label in range(10)]
    less_enlarged = labeled_grid(torch.rand(100, 1, 8, 8), labels, names, columns=10)
    assert less_enlarged.shape[1] == 10 * (16 + GAP) + GAP
    smaller = labeled_grid(torch.rand(100, 3, 40, 40), labels, names, columns=10)
    assert smaller.shape[1] == 10 * (17 + GAP) + GAP


@pytest.mark.parametrize(
    ("labels", "match"), [([0, 3], "got 0 to 3: name every class"), ([-1, 0], "got -1"), ([0], r"got .* and \(1,\)")]
)
def test_refusals(labels: list[int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        labeled_grid(torch.rand(2, 1, 8, 8), torch.tensor(labels), NAMES, columns=3)
    with pytest.raises(ValueError, match="draw nothing if there are no images"):
        labeled_grid(torch.rand(0, 1, 8, 8), torch.tensor([], dtype=torch.int64), NAMES, columns=3)


def name_of(name: str) -> torch.Tensor:
    return labeled_grid(torch.zeros(1, 1, 8, 8), torch.tensor([0]), [name], columns=1)


def test_names_keep_their_letters() -> None:
    pytest.importorskip("matplotlib")
    absent = "\ue000"  # no font has it
    for letter in ("ö", "ß", "é", "Ł", "Ж"):
        assert not torch.equal(name_of(f"Gr{letter}e"), name_of(f"Gr{absent}e"))


def test_without_a_wide_font_names_are_written_in_plain_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_condkd.image_grids._wide_font", lambda size: None)
    assert torch.equal(name_of("Größe é"), name_of("Grosse e"))
    assert torch.equal(name_of("Ж"), name_of("?"))
