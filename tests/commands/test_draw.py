"""Pictures of finished runs, through the command line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lightning_condkd import __main__ as entry
from lightning_condkd.cli import main
from lightning_condkd.commands._finished_run import FinishedRun, run_names
from tests.conftest import ROOT

pytest.importorskip("matplotlib")

METHOD = "--model.init_args.inversion.init_args"
SHORT = ["--trainer.enable_progress_bar=false", "--trainer.max_epochs=2"]
GUIDED = [
    f"--config={ROOT / 'configs' / 'quickstart.yaml'}",
    "--trainer.callbacks=[]",
    f"{METHOD}.cadence.synthesis_steps=2",
    f"{METHOD}.cadence.distill_steps=2",
    f"{METHOD}.batch_size=32",
]
LIVE = ["--model.init_args.inversion=DAFL", f"{METHOD}.cadence.repeats=1", f"{METHOD}.generator.width=8"]
RUNS = {
    "guided": GUIDED,
    "mixed": [*GUIDED, "--model.init_args.alignment=null"],
    "live": [*GUIDED, *LIVE, "--data.init_args.mix=0.25"],
    "teacher": [f"--config={ROOT / 'configs' / 'digits' / 'teacher.yaml'}", "--model.output=null"],
}
FILES = {"curves.png", "images.png", "features.png", "seconds.png"}
FEW = "--max_images=20"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("runs")
    for name, flags in RUNS.items():
        main(["fit", *flags, *SHORT, f"--trainer.default_root_dir={root / name}"])
    return {name: str(root / name / "lightning_logs" / "version_0") for name in RUNS}


def drawn(capsys: pytest.CaptureFixture[str], *given: str) -> list[str]:
    """Draw, and return the lines that are printed."""
    capsys.readouterr()
    main(["draw", *given, FEW])
    return capsys.readouterr().out.splitlines()


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        assert len(set(picture.convert("L").tobytes())) > 5
        return picture.size


def test_one_run_is_drawn_into_its_folder(runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = drawn(capsys, runs["guided"])
    folder = Path(runs["guided"]) / "pictures"
    assert {path.name for path in folder.iterdir()} == FILES
    assert [line for line in lines if line.startswith("written to")] == [
        f"written to {folder / name}" for name in ("curves.png", "images.png", "features.png", "seconds.png")
    ]
    assert size(folder / "images.png")[1] == 20 * 66 + 2  # two rows a class
    assert size(folder / "features.png") == (630, 530)


def test_several_runs_are_drawn_side_by_side(
    runs: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_condkd.commands import _run_pictures

    figures: dict[str, Any] = {}
    for name in ("curve_figure", "feature_figure", "bar_figure", "feature_points"):
        original = getattr(_run_pictures, name)

        def kept(*given: Any, original: Any = original, name: str = name, **named: Any) -> Any:
            figures[name] = original(*given, **named)
            return figures[name]

        monkeypatch.setattr(_run_pictures, name, kept)
    lines = drawn(capsys, runs["guided"], "--output", str(tmp_path), runs["mixed"])
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert not [line for line in lines if line.startswith("not drawn")]
    assert size(tmp_path / "images.png")[1] == 3 * 66 + 2  # condensed, guided, mixed
    curves = figures["curve_figure"].axes[0]
    assert curves.get_title() == "val/student_accuracy"
    assert [line.get_label() for line in curves.lines] == ["guided", "mixed", "teacher"]
    assert [panel.get_title() for panel in figures["feature_figure"].axes] == ["guided", "mixed"]
    assert list(figures["feature_points"]) == [  # real and condensed images are embedded once
        ("guided", "condensed"),
        ("guided", "real"),
        ("guided", "synthetic"),
        ("mixed", "synthetic"),
    ]
    assert [text.get_text() for text in figures["bar_figure"].axes[0].get_yticklabels()] == ["guided", "mixed"]


def test_what_a_run_lacks_is_said(runs: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = drawn(capsys, runs["live"], runs["teacher"], runs["mixed"], f"--output={tmp_path}", "--names=[a, b, c]")
    said = "\n".join(lines)
    assert "left out of images.png: a: its memory bank is empty, as of methods that render" in said
    assert "left out of images.png: b: " in said
    assert "left out of features.png: b: the run has no teacher" in said
    assert "left out of features.png: a: its memory bank is empty" in said
    alone = drawn(capsys, runs["teacher"], f"--output={tmp_path / 'alone'}")
    assert [line.split(":")[0] for line in alone if "written" not in line] == ["not drawn", "not drawn"]
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {"curves.png", "seconds.png"}


def test_a_moved_run_is_drawn_and_one_without_its_bank_says_so(
    runs: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    moved = shutil.copytree(runs["mixed"], tmp_path / "moved")
    assert not [line for line in drawn(capsys, str(moved)) if line.startswith("not drawn")]
    shutil.rmtree(moved / "checkpoints")
    lines = drawn(capsys, str(moved))
    assert f"not drawn: images.png: moved: no checkpoint in {moved / 'checkpoints'} lists a memory bank" in lines
    (moved / "config.yaml").unlink()
    assert any("has no config.yaml" in line for line in drawn(capsys, str(moved)) if "features.png" in line)


def test_a_damaged_bank_is_refused_and_the_rest_drawn(
    runs: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    moved, bank = shutil.copytree(runs["mixed"], tmp_path / "moved"), Path(runs["mixed"], "bank")
    for chunk in (moved / "bank").iterdir():
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    bank.rename(tmp_path / "away")  # else it would be found there
    try:
        lines = drawn(capsys, str(moved))
    finally:
        (tmp_path / "away").rename(bank)
    assert any("was altered" in line for line in lines if "images.png" in line)
    assert any(line.startswith("written") and "curves.png" in line for line in lines)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "the following arguments are required: runs"),
        (
            ["nowhere"],
            "error: expected the folder of a run, with config.yaml, metrics.csv or summary.json, got nowhere",
        ),
        (["{guided}/../.."], "give one of its runs, such as"),
        (["{guided}", "{live}"], "error: output: expected a folder for the pictures of 2 runs: give --output FOLDER"),
        (["{guided}", "{guided}", "--output=x"], "error: names: expected 2 different names"),
        (["{guided}", "--names=[a, b]"], "error: names: expected 1 different names"),
        (["{guided}", "--names=[condensed]"], "error: names: 'condensed' is the row of the condensed images"),
        (["{guided}", "--max_images=0"], "error: max_images: expected a positive number, got 0"),
        (["{guided}", "--output={guided}/config.yaml"], "is a file, expected a folder"),
    ],
)
def test_a_refusal_is_one_line(
    given: list[str],
    said: str,
    runs: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = [one.format(**runs) for one in given]
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", "draw", *line])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert said in errors[0]


def test_damaged_files_are_named(runs: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    copied = shutil.copytree(runs["guided"], tmp_path / "copied")
    (copied / "summary.json").write_text('{"seconds": ')
    (copied / "config.yaml").write_text("model: [")
    with pytest.raises(ValueError, match="nothing could be drawn") as refused:
        main(["draw", str(copied), FEW])
    said = str(refused.value)
    assert said.count(f"{copied / 'summary.json'} is damaged (Expecting value") == 2
    assert said.count(f"{copied / 'config.yaml'} is damaged (while parsing") == 2
    (copied / "config.yaml").write_text("[model]")
    (copied / "summary.json").unlink()
    lines = drawn(capsys, str(copied))
    assert any("expected names with values, got list" in line for line in lines)
    assert any(line.startswith("written") and "curves.png" in line for line in lines)


def test_another_teacher_is_taken_and_one_that_does_not_fit_is_refused(
    runs: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = {"small": "--teacher.network=DigitsNet", "other": "--teacher.network.num_classes=7"}
    pictures = []
    for teacher in ([], [own["small"]]):
        assert f"written to {tmp_path / 'features.png'}" in drawn(
            capsys, runs["guided"], f"--output={tmp_path}", *teacher
        )
        pictures.append((tmp_path / "features.png").read_bytes())
    assert pictures[0] != pictures[1]
    lines = drawn(capsys, runs["guided"], f"--output={tmp_path}", *own.values())
    assert len([line for line in lines if line.startswith("not drawn: features.png: version_0: ")]) == 1


def test_a_run_is_named_by_the_parts_in_which_paths_differ() -> None:
    runs = [Path("a/x/lightning_logs/version_0"), Path("a/y/lightning_logs/version_1")]
    assert run_names(runs) == ["x/version_0", "y/version_1"]
    assert run_names([Path("a"), Path("b/c")]) == ["a", "b/c"]


def test_an_unfinished_run_has_what_it_wrote(runs: dict[str, str], tmp_path: Path) -> None:
    copied = shutil.copytree(runs["guided"], tmp_path / "copied")
    (copied / "summary.json").unlink()
    run = FinishedRun(copied, "copied")
    assert run.summary == {}
    assert run.unit == "round"
    assert list(run.curves["val/student_accuracy"].rounds) == [0.0, 1.0]
