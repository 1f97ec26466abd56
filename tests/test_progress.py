"""Long work says on stderr how far it is, in a form that fits where stderr goes; short work says nothing."""

from __future__ import annotations

import io
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from lightning_condkd import progress
from lightning_condkd.cli import main
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.progress import each
from tests.commands.test_evaluate import RECIPE, condensed
from tests.commands.test_evaluate_again import interrupted, report_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def put(patch: pytest.MonkeyPatch, stderr: io.StringIO) -> io.StringIO:
    """Replace stderr; not in a fixture, since pytest replaces it again before a test begins."""
    patch.setattr(sys, "stderr", stderr)
    return stderr


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all work long."""
    for name in ("BAR_AFTER", "LINE_AFTER", "LINE_EVERY"):
        monkeypatch.setattr(progress, name, 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = put(monkeypatch, Terminal())
    assert list(each("abc", "reading", 3, "letters")) == [*"abc"]
    assert "reading: 100%" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_a_log_gets_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in each(range(100), "reading", 100, "letters"):
        clock.now += 4
    captured = capsys.readouterr()
    assert captured.out == ""
    left = {3: "6 min", 18: "5 min", 33: "4 min", 48: "3 min", 63: "2 min", 78: "1 min", 93: "28 s"}
    lines = [f"reading: {count} of 100 letters, about {time} left" for count, time in left.items()]
    assert captured.err.splitlines() == lines


def test_short_work_is_silent(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    for stderr in (Terminal(), io.StringIO()):
        put(monkeypatch, stderr)
        for _ in each("abc", "reading", 3, "letters"):
            clock.now += 1
        assert stderr.getvalue() == ""


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", progress.RANKS)
def test_other_ranks_are_silent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = put(monkeypatch, Terminal())
    monkeypatch.setenv(name, "1")
    assert list(each("abc", "reading", 3, "letters")) == [*"abc"]
    assert terminal.getvalue() == ""
    monkeypatch.setenv("RANK", "0")  # known before the ranks on one machine
    assert progress.is_shown()


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    capsys.readouterr()
    main(arguments)
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for part, label, row in product(("train", "test"), ("cat", "dog"), range(3)):
        path = tmp_path / "animals" / part / label / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(torch.rand(3, 8, 8)).save(path)
    return tmp_path / "animals"


@pytest.mark.usefixtures("at_once")
def test_convert_counts_the_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(capsys, "convert", f"{folder}/train", "set.safetensors")
    assert f"reading {folder}/train: 1 of 6 images, about 1 s left" in err
    out, err = printed(capsys, "convert", "set.safetensors", "pictures", "--format=png")
    assert "writing pictures: 5 of 6 images" in err
    assert "left" not in out


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("method", "inner"),
    [
        ("KCenter", "embedding images"),
        ("KMeans", "embedding images"),
        ("Herding", "embedding images"),
        ("RealismSelection", "scoring crops"),
    ],
)
def test_select_counts_images_read_classes_and_batches(
    method: str, inner: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ["--teacher.network=ConvNet", "--teacher.network.num_classes=2", "--teacher.network.image_size=8"]
    network += ["--teacher.network.depth=1", "--teacher.network.width=4", "--teacher.mean=[0.5, 0.5, 0.5]"]
    data = ["--data=ImageFolderDataModule", f"--data.root={folder}"]
    size = "--method.crops=1" if method == "RealismSelection" else "--method.batch_size=2"
    sizes = [size, "--method.batch_size=2"] if method == "RealismSelection" else [size]
    given = [*data, f"--method={method}", *sizes, *network, "--teacher.std=[0.3, 0.3, 0.3]", "--ipc=1"]
    out, err = printed(capsys, "select", "chosen.safetensors", *given)
    assert f"reading {folder}/train: 1 of 6 images" in err
    assert ": 1 of 2 classes" in err
    assert f"class 1: {inner}: 1 of 2 batches" in err
    assert "left" not in out


@pytest.mark.usefixtures("at_once")
def test_evaluate_counts_the_epochs_of_all_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    CondensedSet(torch.rand(10, 1, 8, 8), torch.arange(10)).save("set.safetensors")
    network = '{"small": {"class_path": "ConvNet", "init_args": {"num_classes": 10, "image_size": 8, "in_channels": 1, '
    network += '"depth": 1, "width": 4}}}'
    given = ["--data=DigitsDataModule", f"--networks={network}", "--runs=2", "--epochs=3", "--output=out.json"]
    out, err = printed(capsys, "evaluate", "set.safetensors", *given)
    counted = [line for line in err.splitlines() if line.startswith("training fresh networks: ")]
    assert [line.split(": ")[1].split(",")[0] for line in counted] == [f"{n} of 12 epochs" for n in range(1, 12)]
    assert "left" not in out


@pytest.mark.usefixtures("at_once")
def test_an_evaluation_that_goes_on_counts_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = condensed(tmp_path), tmp_path / "out.json"
    interrupted(path, output, monkeypatch, 4)
    capsys.readouterr()
    report_of(path, output)
    assert f"1 of {5 * RECIPE.epochs} epochs" in capsys.readouterr().err
