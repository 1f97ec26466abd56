"""Condensed images are in the units of [0, 1], which learned ones may leave somewhat."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_condkd.commands.convert import convert
from lightning_condkd.data import CondensedDataModule, CondensedSet, TransferSet
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.modules.condensation import _initial_pixels
from lightning_condkd.pixels import to_bytes, to_pixels
from lightning_condkd.training.class_order import check_fit
from tests.conftest import ROOT

DIGITS = load_digits_split(True)
PIXELS = DIGITS.images[:40].float() / 255
COLOR = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def made(images: Tensor) -> CondensedSet:
    return CondensedSet(images, torch.arange(len(images)) % 2)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        ((PIXELS - 0.3059) / 0.3754, r"normalised images do: undo it by images \* std \+ mean"),
        ((PIXELS - 0.5) / 0.5, "normalised images do"),
        ((COLOR - 0.47) / 0.25, "normalised images do"),
        (255 * PIXELS, "pixels as of 0 to 255 in float32: divide them by 255, or give them as uint8"),
        (255 * COLOR, "pixels as of 0 to 255"),
        (torch.where(torch.arange(64).view(1, 1, 8, 8) == 0, 200.0, 0.0).expand(2, 1, 8, 8), "pixels as of 0 to 255"),
        (255 * COLOR - 128, "pixels from -1"),
    ],
)
def test_images_in_other_units_are_refused_wherever_a_set_is_used(images: Tensor, match: str) -> None:
    condensed = made(images)
    for use in (TransferSet, CondensedDataModule, lambda condensed: check_fit(condensed, DIGITS)):
        with pytest.raises(ValueError, match=match):
            use(condensed)


def test_a_set_to_start_from_is_looked_at_too(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    made(255 * PIXELS[:2]).save(start)
    source = ImageSource(DIGITS.images[:2], torch.tensor([0, 1]), ("0", "1"))
    with pytest.raises(ValueError, match="pixels as of 0 to 255"):
        _initial_pixels(source, 1, start, seed=0)
    assert "warning: its images have pixels as of 0 to 255" in convert(start, tmp_path / "again.safetensors")


@pytest.mark.parametrize("images", [PIXELS, COLOR, 1.8 * COLOR - 0.4, (255 * COLOR).byte()])
def test_learned_images_may_leave_the_interval_somewhat(images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TransferSet(made(images))


def test_images_that_go_far_are_doubted() -> None:
    """Colour images as normalised by 0.5 and 0.5 look like images learned at a high rate."""
    with pytest.warns(UserWarning, match="are the condensed images in the units"):
        TransferSet(made(2 * COLOR - 0.7))


@pytest.mark.real_data
def test_the_public_dm_set_is_accepted_and_refused_where_it_is_still_normalised(real_data: Path) -> None:
    file = real_data / "res_DM_CIFAR10_ConvNet_10ipc.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TransferSet(CondensedSet.load(file))
    images, labels = torch.load(file, weights_only=False)["data"][0]
    with pytest.raises(ValueError, match=r"49 % of them below -0.5 or above 1.5"):
        TransferSet(CondensedSet(images.float(), labels))


def test_bytes_become_pixels_and_back_in_one_file() -> None:
    """Elsewhere no expression has the number in it; messages may."""
    sources = {path: ast.walk(ast.parse(path.read_text())) for path in (ROOT / "lightning_condkd").rglob("*.py")}
    numbers = {
        path.name: [node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) in (int, float)]
        for path, nodes in sources.items()
    }
    assert [name for name, values in numbers.items() if {255, 1 / 255, 127.5} & set(values)] == ["pixels.py"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bytes_survive_pixels_of_every_type(dtype: torch.dtype) -> None:
    values = torch.arange(256).to(torch.uint8)
    assert to_pixels(values, dtype=dtype).dtype == dtype
    assert torch.equal(to_bytes(to_pixels(values, dtype=dtype)), values)
    assert to_bytes(torch.tensor([-1.0, 0.6 / 255, 254.6 / 255, 9.0], dtype=torch.float64)).tolist() == [0, 1, 255, 255]
