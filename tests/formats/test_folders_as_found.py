"""Folders of images as they are found: gray ones, other endings, damaged files."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_condkd.cli import main
from lightning_condkd.data import CondensedSet
from lightning_condkd.data.image_datamodules import ImageFolderDataModule, load_digits_split
from lightning_condkd.data.image_source import from_folder
from lightning_condkd.formats import export_png
from tests.helpers.importers import import_folder


def write(root: Path, mode: str = "RGB", count: int = 2, ending: str = ".png") -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for row in range(count):
            Image.new(mode, (4, 4), row).save(root / name / f"{row:02d}{ending}")
    return root


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_images_keep_one_channel_and_it_is_said(tmp_path: Path, mode: str) -> None:
    root = write(tmp_path, mode)
    with pytest.warns(UserWarning, match=r"all 4 images are gray .* set channels to 1 .* or to 3 for RGB"):
        assert from_folder(root).image_shape == (1, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_folder(root, channels=1).image_shape == (1, 4, 4)
        assert from_folder(root, channels=3).image_shape == (3, 4, 4)
        Image.new("RGB", (4, 4), "red").save(root / "dog" / "red.png")
        assert from_folder(root).image_shape == (3, 4, 4)
        assert from_folder(root, channels=1).image_shape == (1, 4, 4)
    with pytest.raises(ValueError, match="channels: expected 1, 3 or None, got 4"):
        from_folder(root, channels=4)


@pytest.mark.parametrize("channels", [1, 3])
def test_our_export_comes_back_as_it_left(tmp_path: Path, channels: int) -> None:
    labels = torch.arange(3).repeat_interleave(2)
    images = torch.randint(0, 256, (6, 1, 5, 4), dtype=torch.uint8).expand(-1, channels, -1, -1)  # gray in either form
    export_png(CondensedSet(images, labels), tmp_path / "png")
    source = from_folder(tmp_path / "png")
    assert torch.equal(source.images, images)
    assert torch.equal(source.labels, labels)
    assert torch.equal(import_folder(tmp_path / "png").images, images)


def test_a_network_of_one_channel_is_tested_on_a_folder_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_digits_split(train=False)
    export_png(CondensedSet(digits.images[:100], digits.labels[:100]), tmp_path / "test")
    observer = {
        "network": "DigitsNet",
        "mean": [0.3059],
        "std": [0.3754],
        "weights": "package:digits-teacher.safetensors",
    }
    model = json.dumps({"network": {"class_path": "Observer", "init_args": observer}})
    arguments = ["--data=ImageFolderDataModule", f"--data.root={tmp_path}", "--trainer.logger=false"]
    arguments.append(f"--trainer.default_root_dir={tmp_path / 'out'}")
    for channels in ([], ["--data.channels=1"]):
        main(["test", "--model=Classification", f"--model.init_args={model}", *arguments, *channels])
        assert re.search(r"test/accuracy\s+\S\s+(1\.0|0\.9)", capsys.readouterr().out)
    with pytest.raises(ValueError, match="expected images with 1 channels, got 3"):
        main(["test", "--model=Classification", f"--model.init_args={model}", *arguments, "--data.channels=3"])


def test_other_endings_are_counted(tmp_path: Path) -> None:
    root = write(tmp_path)
    write(root, "L", 3, ".gif")
    (root / "cat" / "boxes.TXT").touch()
    (root / "cat" / "README").touch()
    (root / "cat" / ".hidden").touch()
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "a.gif").touch()
    Image.new("RGB", (4, 4)).save(root / "beside.png")
    for read in (from_folder, import_folder):
        with pytest.warns(UserWarning, match="ignored 8 files") as caught:
            assert len(read(root).labels) == 4
        (message,) = [str(warning.message) for warning in caught]
        assert "ignored 8 files with an ending that is not read (6 with .gif, 1 with .txt, 1 with no ending" in (
            message
        )
        assert "and 1 images outside the class folders" in message


def test_a_folder_of_gifs_alone_says_why_it_is_empty(tmp_path: Path) -> None:
    write(tmp_path, "L", 1, ".gif")
    with pytest.warns(UserWarning, match=r"2 with \.gif"), pytest.raises(FileNotFoundError, match="found none"):
        from_folder(tmp_path)


def test_nothing_is_said_of_a_folder_that_is_read_whole(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / ".DS_Store").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(from_folder(root)) == len(import_folder(root)) == 4


@pytest.mark.parametrize("damaged", [["cat/00.png", "dog/02.png"], [f"cat/{row:02d}.png" for row in range(12)]])
def test_damaged_images_are_named_together(tmp_path: Path, damaged: list[str]) -> None:
    root = write(tmp_path, count=12)
    for name in damaged:
        (root / name).write_bytes((root / name).read_bytes()[:40])
    for read in (from_folder, import_folder):
        with pytest.raises(ValueError, match=rf"^{len(damaged)} of 24 images cannot be used:") as caught:
            read(root)
        lines = str(caught.value).splitlines()[1:]
        assert [name in line for name, line in zip(damaged[:10], lines, strict=False)] == [True] * len(damaged[:10])
        assert lines[10:] == (["and 2 more"] if len(damaged) > 10 else [])


def test_the_last_image_is_checked_as_the_others(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "dog" / "01.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"01\.png is no image or is cut off"):
        from_folder(root)


def test_parts_of_other_channels_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train")
    write(tmp_path / "test", "L")
    with pytest.warns(UserWarning, match="gray"), pytest.raises(ValueError, match="image_shape"):
        ImageFolderDataModule(tmp_path, batch_size=1).train_dataloader()
    ImageFolderDataModule(tmp_path, batch_size=1, channels=3).train_dataloader()
