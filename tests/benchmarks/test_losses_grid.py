"""The grid of losses and images, and the mixed views: every loss has a row, and small runs give what the files hold."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.quality import losses, mixed_views
from benchmarks.support import grid_tables, result_files
from benchmarks.support.grid_images import SOURCES, ImageFiles, predicted
from benchmarks.support.sweep import sweep
from lightning_condkd.cli import CondKDCLI
from lightning_condkd.data.digits import load_digits_split
from lightning_condkd.pixels import to_pixels
from tests.conftest import ROOT
from tests.helpers.losses import names

COMBINING_OR_FIRST_STAGE = {"WeightedLosses", "TeacherClassifier"}
GUIDED = [
    f"--config={ROOT / 'configs' / 'quickstart.yaml'}",
    "--trainer.callbacks=[]",
    "--trainer.max_epochs=2",
    "--model.init_args.inversion.init_args.batch_size=16",
    "--model.init_args.inversion.init_args.cadence={synthesis_steps: 2, distill_steps: 2, warmup_rounds: 1}",
]
BASE = ["--suite=digits", "--rounds=2", "--round_steps=2", "--batch_size=16", "--validate_every=1"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)
    losses.images_of.cache_clear()


def test_every_loss_of_the_package_has_a_row() -> None:
    made = [make() for make in losses.SUITES["digits"].losses.values()]
    kinds = {type(module).__name__ for loss in made for module in loss.modules()}
    assert set(names()) - COMBINING_OR_FIRST_STAGE <= kinds
    assert set(losses.SUITES["cifar10"].losses) < set(losses.SUITES["digits"].losses)


def test_the_images() -> None:
    teacher = losses.Task.load("digits").teacher
    files = ImageFiles("digits", partial(load_digits_split, train=True), "package:digits-dm-1ipc.safetensors", GUIDED)
    found = {source: files.load(source, teacher) for source in SOURCES[::-1]}
    assert {source: len(images) for source, images in found.items()} == {
        "real": 1297,
        "condensed": 10,
        "synthetic": 32,
        "union": 42,
    }
    assert torch.equal(found["union"].pixels(slice(10, None)), to_pixels(found["synthetic"].images))
    for images in found.values():
        assert torch.equal(images.labels, predicted(teacher, images.images))
    assert torch.equal(files.load("union", teacher).images, found["union"].images)


@pytest.mark.parametrize("loss", ["KD", "SimKD", "GenDD"])
def test_a_run(loss: str) -> None:
    found = losses.run([*BASE, f"--loss={loss}", "--images=condensed", "--seed_everything=1"], 1)
    assert found["seed"] == 1
    assert len(found["curve"]) == 2
    assert found["student_accuracy_last"] == found["curve"][-1]
    figures = {"agreement", "calibration_error"} | ({"sampled"} if loss == "GenDD" else set())
    assert set(found["figures"]) == figures
    assert all(0 <= value <= 1 for value in found["figures"].values())


def test_views_reach_the_module() -> None:
    suite, task = losses.SUITES["digits"], losses.Task.load("digits")
    modules = [
        losses.make(suite, task, suite.losses["KD"](), losses.parse([*BASE, "--loss=KD", "--seed_everything=0", *view]))
        for view in ([], ["--view=mixup"], ["--view=second view of MLKD"])
    ]
    assert [type(module.mixing).__name__ for module in modules] == ["NoneType", "Mixup", "NoneType"]
    assert [type(module.augment).__name__ for module in modules] == ["CropFlip", "CropFlip", "DifferentiableAugment"]


def test_the_figures_are_of_the_network_that_predicts() -> None:
    task = losses.Task.load("digits")
    options = losses.parse([*BASE, "--loss=KD", "--images=condensed", "--seed_everything=0"])
    suite = losses.SUITES["digits"]
    module = losses.make(suite, task, suite.losses["KD"](), options)
    module.student = task.teacher
    assert module.teacher_accuracy == task.accuracy(task.logits) == pytest.approx(0.988)
    assert task.figures(module)["agreement"] == 1
    assert task.figures(module)["calibration_error"] < 0.05


def test_tables_of_a_sweep() -> None:
    accuracies = {("KD", 0): 0.5, ("KD", 1): 0.7, ("DIST", 0): 0.6, ("DIST", 1): 0.6}

    def run(arguments: list[str], threads: int) -> dict[str, object]:
        loss, seed = arguments[-2].removeprefix("--loss="), int(arguments[-1].removeprefix("--seed_everything="))
        figures = {"agreement": 0.4, "calibration_error": 0.1}
        accuracy = accuracies[loss, seed]
        return {"seed": seed, "student_accuracy_last": accuracy, "student_accuracy_best": 0.9, "figures": figures}

    rows = {f"{loss} on real": [f"--loss={loss}"] for loss in ("KD", "DIST")}
    sweep("losses-test", [], rows, [0, 1], 1, run)
    content = result_files.read("losses-test", {})
    assert grid_tables.accuracies(content) == [["loss", "real"], ["KD", "60.0 ± 14.1"], ["DIST", "60.0 ± 0.0"]]
    assert grid_tables.differences(content) == [["minus KD", "real"], ["DIST", "+0.0 ± 14.1"]]
    assert grid_tables.figures(content)[1] == ["KD", "90.0 / 40.0 / 10.0"]


def test_rows_of_mixed_views(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(mixed_views.rows()) == 9
    flags = [f"--config={ROOT / 'configs' / 'cifar10' / 'fast.yaml'}", *mixed_views.rows()["condensed only, CutMix"]]
    with pytest.raises(SystemExit):
        CondKDCLI(["fit", *flags, "--print_config"])
    said = capsys.readouterr().out
    assert "CutMix" in said
    assert "NoInversion" in said
