"""Every command says once what it has read, and names classes without images."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from torchvision.transforms.functional import to_pil_image

from lightning_condkd.cli import main
from lightning_condkd.data import CondensedInfo, CondensedSet, DigitsDataModule, ImageFolderDataModule
from lightning_condkd.data.image_datamodules import load_digits_split
from tests.conftest import ROOT

CLASSIFIER = {
    "class_path": "Observer",
    "init_args": {"network": {"class_path": "DigitsNet", "init_args": {"width": 4}}, "mean": [0.3], "std": [0.4]},
}
TEACHER = f"--model.network={json.dumps(CLASSIFIER)}"
TRAIN = "training images of DigitsDataModule: 1297 images of 1 x 8 x 8 (uint8), 128 to 132 per class, 10 classes"
HELD_OUT = "held-out images of DigitsDataModule: 500 images of 1 x 8 x 8 (uint8), 46 to 51 per class, 10 classes"
SET = "10 images of 1 x 8 x 8 (float32), 1 per class, 10 classes, labels hard"
DATA = "--data=DigitsDataModule"
SHORT = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def recipe(name: str) -> list[str]:
    return ["--config", str(ROOT / "configs" / f"{name}.yaml"), *SHORT]


Said = Callable[[list[str]], list[str]]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Types a command, and returns its messages about images."""
    monkeypatch.chdir(tmp_path)

    def run(arguments: list[str]) -> list[str]:
        caplog.clear()
        with caplog.at_level("INFO", logger="lightning.pytorch"):
            main(arguments)
        return [record.getMessage() for record in caplog.records if " images of " in record.getMessage()]

    return run


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["fit", *recipe("digits/teacher"), TEACHER], [TRAIN, HELD_OUT]),
        (["fit", *recipe("quickstart"), "--trainer.fast_dev_run=1"], [f"condensed set: {SET}", HELD_OUT]),
        (["fit", *recipe("digits/dm"), "--trainer.fast_dev_run=1"], [TRAIN]),
        (["fit", *recipe("digits/generative"), "--trainer.fast_dev_run=1"], [TRAIN]),
        (["fit", *recipe("digits/experts"), "--trainer.fast_dev_run=1"], [TRAIN, HELD_OUT]),
        (["test", *recipe("digits/teacher"), TEACHER], [HELD_OUT]),
        (["select", "few.safetensors", DATA, "--method=RandomSelection", "--ipc=1"], [TRAIN]),
        (
            ["evaluate", "package:digits-dm-1ipc.safetensors", DATA, "--epochs=1", "--runs=1"],
            [TRAIN, HELD_OUT, f"condensed set package:digits-dm-1ipc.safetensors: {SET}"],
        ),
    ],
)
def test_what_was_read_is_said_once(command: list[str], expected: list[str], said: Said) -> None:
    assert sorted(said(command)) == sorted(expected)


def test_a_conversion_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", "package:digits-dm-1ipc.safetensors", str(tmp_path / "png"), "--format=png"])
    assert SET in capsys.readouterr().out


def test_other_ranks_say_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        assert len(DigitsDataModule().train_source)
    assert not caplog.records


@pytest.fixture
def holes(tmp_path: Path) -> Path:
    """Digits in folders, of which two are empty."""
    for part, source in {"train": load_digits_split(True), "test": load_digits_split(False)}.items():
        for label, rows in enumerate(source.class_rows):
            (folder := tmp_path / "digits" / part / f"digit{label}").mkdir(parents=True)
            for row in rows[:2].tolist() if label not in (3, 7) else []:
                to_pil_image(source.images[row]).save(folder / f"{row}.png")
    return tmp_path / "digits"


def test_an_empty_folder_of_a_class_is_named_to_who_trains_a_teacher(holes: Path, said: Said) -> None:
    data = ["--data=ImageFolderDataModule", f"--data.root={holes}", "--data.channels=1", "--data.batch_size=4"]
    with pytest.warns(UserWarning, match="classes have no") as caught:
        lines = said(["fit", "--model=Classification", TEACHER, *SHORT, *data])
    found = [str(warning.message) for warning in caught if "classes have no" in str(warning.message)]
    assert [line.split(": ")[0] for line in found] == ["2 of 10 classes have no training image, digit3, digit7"]
    holds = "16 images of 1 x 8 x 8 (uint8), 0 to 2 per class, 10 classes, none of digit3, digit7"
    assert lines == [f"{part} images of ImageFolderDataModule: {holds}" for part in ("training", "held-out")]


@pytest.mark.parametrize(
    "command",
    [
        ["fit", *recipe("digits/dm"), "--model.init_args.init=noise"],
        ["fit", *recipe("digits/generative")],
        ["fit", *recipe("digits/experts"), "--trainer.max_epochs=20"],
        ["select", "few.safetensors", "--method=RandomSelection", "--ipc=1"],
    ],
)
@pytest.mark.filterwarnings("ignore:.*classes have no")
def test_a_set_cannot_be_learned_or_chosen_with_an_empty_folder(command: list[str], holes: Path, said: Said) -> None:
    data = {"class_path": "ImageFolderDataModule", "init_args": {"root": str(holes), "channels": 1, "batch_size": 4}}
    with pytest.raises(ValueError, match=r"class 'digit3' has 0 training images.* and the same holds for digit7: "):
        said([*command, f"--data={json.dumps(data)}"])


def test_whole_data_is_not_remarked_on(holes: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert DigitsDataModule().train_source.empty_classes == []
    names = [f"digit{label}" for label in range(12)]
    with pytest.warns(UserWarning, match="4 of 12 classes have no training image, digit3, digit7, digit10 and 1 more"):
        assert ImageFolderDataModule(holes, channels=1, class_names=names).train_source.num_classes == 12


def test_empty_classes_of_a_condensed_set_have_names(tmp_path: Path) -> None:
    info = CondensedInfo(3, ("ant", "bee", "cow"))
    made = CondensedSet(torch.rand(2, 1, 8, 8), torch.tensor([0, 2]), info=info)
    assert "0 to 1 per class, 3 classes, labels hard\nclasses without an image: bee\n" in made.describe()
    assert "classes without an image: 1\n" in CondensedSet(made.images, made.labels).describe()
