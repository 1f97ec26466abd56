"""What a run of every module leaves and says, through the command line."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from lightning_condkd.cli import main
from lightning_condkd.data import CondensedSet
from tests.conftest import ROOT

STEPS = "--model.steps_per_epoch=2"
RECIPES = {
    "quickstart": [
        "--trainer.callbacks=null",
        "--model.init_args.inversion.init_args.cadence.distill_steps=2",
        "--model.init_args.inversion.init_args.batch_size=16",
    ],
    "digits/teacher": ["--trainer.check_val_every_n_epoch=1", "--model.output=out.safetensors"],
    "digits/distillation": [],
    "digits/dm": [STEPS, "--model.output=out.safetensors"],
    "digits/generative": [STEPS, "--model.gan_epochs=1", "--model.ipc=3", "--model.output=out.safetensors"],
    "digits/experts": ["--model.epochs=1", "--trainer.check_val_every_n_epoch=1", "--model.output=out"],
}


class Left(NamedTuple):
    folder: Path
    summary: dict[str, Any]
    rows: list[dict[str, str]]
    out: str
    log: str


def run(recipe: str, root: Path, *more: str) -> list[str]:
    short = ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    config = ["--config", str(ROOT / "configs" / f"{recipe}.yaml")]
    return ["fit", *config, *RECIPES[recipe], *short, f"--trainer.default_root_dir={root}", *more]


def left(
    command: list[str],
    root: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    version: int = 0,
) -> Left:
    caplog.clear()
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        main(command)
    folder = root / "lightning_logs" / f"version_{version}"
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    summary = json.loads((folder / "summary.json").read_text())
    return Left(folder, summary, rows, capsys.readouterr().out, caplog.text)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_module_leaves_summary_and_curve_and_says_how_far_it_is(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    found = left(run(recipe, tmp_path), tmp_path, capsys, caplog)
    name = "round" if recipe == "quickstart" else "epoch"
    assert found.summary[f"{name}s"] == 2
    assert found.summary["seconds"]["total"] > 0
    assert [row[name] for row in found.rows] == ["0", "1"]
    assert len(found.rows[1]) > 1
    said = "expert" if recipe == "digits/experts" else name
    assert len(re.findall(rf"{said} [12] of 2[:,] .*\d\.\d s(, about \d s left)?\n", found.log)) == 2
    assert f"summary: {found.folder / 'summary.json'}" in found.out
    assert re.search(r"^seconds +.*total", found.out, re.MULTILINE)
    assert f"checkpoints{' ' * 3}" in re.sub(" {3,}", " " * 3, found.out)
    if recipe not in ("quickstart", "digits/distillation"):
        output = found.summary["output"]
        assert re.search(rf"^written to +{output}$", found.out, re.MULTILINE)
        assert f"written to {output}: " in found.log


@pytest.mark.parametrize(("recipe", "ipc"), [("digits/dm", 1), ("digits/generative", 3)])
def test_a_learned_set_is_described_and_shown(
    recipe: str, ipc: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    found = left(run(recipe, tmp_path), tmp_path, capsys, caplog)
    held = CondensedSet.load("out.safetensors")
    assert found.summary["set"] == held.line
    assert held.line.endswith(f"images of 1 x 8 x 8 (float32), {ipc} per class, 10 classes, labels hard")
    assert found.summary["iterations"] == 4
    assert Path(found.summary["picture"]) == found.folder / "condensed.png"
    with Image.open(found.folder / "condensed.png") as sheet:
        assert sheet.height == 66 * 10 + 2
        assert 66 * ipc + 2 < sheet.width < 66 * ipc + 30  # the names are digits
        assert len(set(sheet.convert("L").tobytes())) > 20
    for title in ("condensed set", "picture", "iterations"):
        assert re.search(rf"^{title} +\S", found.out, re.MULTILINE)


def test_accuracies_of_a_teacher_and_of_fresh_networks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    teacher = left(run("digits/teacher", tmp_path / "t"), tmp_path / "t", capsys, caplog)
    curve = [float(row["val/accuracy"]) for row in teacher.rows]
    assert (teacher.summary["accuracy_last"], teacher.summary["accuracy_best"]) == (curve[-1], max(curve))
    assert f"accuracy, best    {100 * max(curve):.2f} %" in re.sub(" {4,}", " " * 4, teacher.out)
    assert Path(teacher.summary["best_checkpoint"]) == teacher.folder / "checkpoints" / "best_accuracy.ckpt"
    accuracy = ["--trainer.callbacks=CondensedAccuracy", "--trainer.callbacks.every_n_steps=2"]
    accuracy += ["--trainer.callbacks.recipe.epochs=1", "--trainer.callbacks.name=mine"]
    dm = left(run("digits/dm", tmp_path / "d", *accuracy), tmp_path / "d", capsys, caplog)
    assert 0 < dm.summary["fresh_networks_mine"] < 1
    assert re.search(r"^fresh networks, mine +\d+\.\d\d %$", dm.out, re.MULTILINE)
    assert "best_checkpoint" not in dm.summary


def test_experts_are_counted_and_have_no_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    found = left(run("digits/experts", tmp_path), tmp_path, capsys, caplog)
    assert (found.summary["experts"], found.summary["snapshots"]) == (2, 4)
    assert "accuracy_last" in found.summary
    assert "accuracy_best" not in found.summary


def test_a_resumed_run_goes_on_with_curve_and_clock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = left(run("digits/teacher", tmp_path), tmp_path, capsys, caplog)
    more = ["--trainer.max_epochs=3", "--ckpt_path=last"]
    again = left(run("digits/teacher", tmp_path, *more), tmp_path, capsys, caplog, version=1)
    assert again.rows[:2] == first.rows
    assert len(again.rows) == again.summary["epochs"] == 3
    assert again.summary["seconds"]["total"] > 0.8 * first.summary["seconds"]["total"]


def test_a_csv_logger_keeps_its_own_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path}", "--trainer.log_every_n_steps=1"]
    found = left(run("digits/dm", tmp_path, *logger), tmp_path, capsys, caplog)
    assert [row["step"] for row in found.rows] == ["0", "1", "2", "3"]
    assert found.summary["epochs"] == 2


def test_without_a_logger_files_are_in_the_root(tmp_path: Path) -> None:
    main(run("digits/dm", tmp_path / "root", "--trainer.logger=false"))
    assert {path.name for path in (tmp_path / "root").glob("*.*")} >= {"summary.json", "metrics.csv", "condensed.png"}


def test_a_bar_takes_the_place_of_the_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        main(run("digits/dm", tmp_path, "--trainer.enable_progress_bar=true"))
    assert "epoch 1 of 2" not in caplog.text
