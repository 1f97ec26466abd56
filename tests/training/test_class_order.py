"""The labels of class folders: by number where all are numbered alike, or as the user names them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from lightning_condkd.data.image_datamodules import ImageFolderDataModule
from lightning_condkd.data.image_source import from_folder
from lightning_condkd.formats.folders import in_class_order

TEN = tuple(str(number) for number in range(1, 11))


def write(root: Path, names: Sequence[str]) -> Path:
    """One image for each class: class k, as written, has the grey level 10 * k."""
    for level, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (10 * level,) * 3).save(root / name / "image.png")
    return root


@pytest.mark.parametrize(
    "names",
    [
        TEN,
        [f"class{number}" for number in TEN],
        [f"v2_{number}" for number in TEN],
        [f"{number}_cat{number}" for number in TEN],
        ["2", "10"],
    ],
    ids=lambda names: names[0],
)
def test_numbered_folders_are_labelled_by_number_and_this_is_said(tmp_path: Path, names: Sequence[str]) -> None:
    with pytest.warns(UserWarning, match=r"labelled by number: .*ImageFolder sorts them as text.*give class_names"):
        source = from_folder(write(tmp_path, names))
    assert source.class_names == tuple(names)
    levels = {int(label): int(image[0, 0, 0]) for image, label in zip(source.images, source.labels, strict=True)}
    assert levels == {label: 10 * label for label in range(len(names))}


@pytest.mark.parametrize(
    "names",
    [
        ["10", "9", "dog"],
        ["10_cat", "2"],
        ["a10", "b9"],
        ["01", "02", "10"],
        ["0", "1", "2"],
        ["3d_print", "3d_scan", "20_x"],
        ["n01440764", "n02102040"],
        ["Cat", "ant"],
        ["only10"],
    ],
    ids=lambda names: names[0],
)
def test_other_folders_are_labelled_as_torchvision_does_without_a_word(names: Sequence[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert in_class_order(names) == sorted(names)


def test_class_names_give_the_order(tmp_path: Path) -> None:
    as_text = sorted(TEN)
    write(tmp_path / "train", as_text)
    write(tmp_path / "test", as_text[:4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = ImageFolderDataModule(tmp_path, class_names=as_text)
        assert data.train_source.class_names == data.val_source.class_names == ("1", "10", *TEN[1:9])
    assert [int(level) // 10 for level in data.val_source.images[:, 0, 0, 0]] == data.val_source.labels.tolist()
    data.check_parts()  # a part may lack a class


def test_class_names_are_compared_as_an_export_writes_them(tmp_path: Path) -> None:
    source = from_folder(write(tmp_path, ["T-shirt-top", "1_bag"]), class_names=["Bag", "T-shirt/top"])
    assert source.class_names == ("Bag", "T-shirt/top")
    assert {int(label): int(image[0, 0, 0]) for image, label in zip(source.images, source.labels, strict=True)} == {
        0: 10,
        1: 0,
    }
    with pytest.raises(ValueError, match="folders T-shirt-top are not among class_names"):
        from_folder(tmp_path, class_names=["bag", "shirt"])
