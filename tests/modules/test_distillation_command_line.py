"""Distillation from the command line: what a run leaves, and what is measured, predicted and exported."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from unittest.mock import patch

import lightning as L
import pytest
import torch
import yaml
from torch import nn

from lightning_condkd.cli import main
from lightning_condkd.commands.export import export
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.distillation import SimKD
from lightning_condkd.models import DigitsNet, Observer, ProjectedNetwork, Projector
from lightning_condkd.modules import Distillation
from tests.conftest import ROOT
from tests.helpers import toy
from tests.modules.test_distillation import teacher

RECIPE = f"--config={ROOT / 'configs' / 'digits' / 'distillation.yaml'}"
SIMKD = f"--config={ROOT / 'configs' / 'losses' / 'simkd.yaml'}"


def projected() -> ProjectedNetwork:
    """Return the network that predicts in the run with SimKD, with other weights."""
    return ProjectedNetwork(DigitsNet(width=16), "features", Projector(32, 64), nn.Linear(64, 10), size=(4, 4))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the recipe with SimKD, which changes how the student predicts."""
    root = tmp_path_factory.mktemp("run")
    short = ["--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=1", f"--trainer.default_root_dir={root}"]
    main(["fit", RECIPE, SIMKD, *short, "--trainer.enable_progress_bar=false"])
    return root


def test_a_run_leaves_summary_curve_config_and_the_best_student(run: Path) -> None:
    version = run / "lightning_logs" / "version_0"
    summary = json.loads((version / "summary.json").read_text())
    assert summary["teacher_accuracy"] >= 0.985
    assert {"student_accuracy_last", "student_accuracy_best"} <= set(summary)
    assert len((version / "metrics.csv").read_text().splitlines()) == 5
    assert "Distillation" in (version / "config.yaml").read_text()
    assert {path.name for path in (version / "checkpoints").iterdir()} >= {"best_student_accuracy.ckpt"}


def test_what_is_tested_validated_predicted_and_exported_is_one_network(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={run}"]
    for command in ("test", "validate", "predict"):
        output = [f"--output={tmp_path / 'predicted.csv'}"] if command == "predict" else []
        main([command, RECIPE, SIMKD, *quiet, "--ckpt_path=last", *output])
    said = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "predicted.csv").open()))
    checkpoint = next((run / "lightning_logs" / "version_0" / "checkpoints").glob("epoch=*.ckpt"))
    export(str(checkpoint), str(tmp_path / "student.pt"))

    network = projected()
    loaded = Observer(network, (0.3059,), (0.3754,), weights=tmp_path / "student.pt").eval()
    source = load_digits_split(train=False)
    with torch.no_grad():
        classes = loaded(source.images / 255).logits.argmax(1)
        own = Observer(network.network, (0.3059,), (0.3754,)).eval()(source.images / 255).logits.argmax(1)
    accuracy = float((classes == source.labels).float().mean())
    assert [int(row["class"]) for row in rows] == classes.tolist()
    assert accuracy > 0.5 > float((own == source.labels).float().mean())  # the student's own layer is not trained
    assert said.count(f"{accuracy:.4f}"[:5]) >= 2


def test_an_exported_student_predicts_the_bits_of_the_module(run: Path, tmp_path: Path) -> None:
    checkpoint = next((run / "lightning_logs" / "version_0" / "checkpoints").glob("epoch=*.ckpt"))
    export(str(checkpoint), str(tmp_path / "student.safetensors"))
    model = Distillation.load_from_checkpoint(
        checkpoint, teacher=teacher(), student=DigitsNet(width=16), distillation=SimKD()
    ).eval()
    network = projected()
    loaded = Observer(network, (0.3059,), (0.3754,), weights=tmp_path / "student.safetensors").eval()
    images = load_digits_split(train=False).images / 255
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images))


def test_the_student_of_a_first_stage_begins_the_second(tmp_path: Path) -> None:
    """As the presets of GenDD say: the last weights, without a validation, exported and given to an Observer."""
    stage, weights = (
        f"--config={ROOT / 'configs' / 'losses' / 'teacher_classifier.yaml'}",
        tmp_path / "first.safetensors",
    )
    short = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}"]
    main(["fit", RECIPE, stage, *short, "--trainer.limit_val_batches=0"])
    main(["export", str(tmp_path / "lightning_logs" / "version_0"), str(weights)])
    second = tmp_path / "second.yaml"
    network = {"class_path": "DigitsNet", "init_args": {"width": 16}}
    given = {"network": network, "mean": [0.3059], "std": [0.3754], "weights": str(weights)}
    changed = {"student": {"class_path": "Observer", "init_args": given}}
    second.write_text(yaml.safe_dump({"model": {"init_args": changed}}))
    with patch.object(L.Trainer, "fit", autospec=True) as begun:
        main(["fit", RECIPE, f"--config={second}", *short])
    begins = begun.call_args.kwargs["model"].student
    (last,) = (tmp_path / "lightning_logs" / "version_0" / "checkpoints").glob("epoch=*.ckpt")
    state = torch.load(last, weights_only=True)["state_dict"]
    assert toy.same(
        dict(begins.state_dict()), {n.removeprefix("student."): v for n, v in state.items() if n[:8] == "student."}
    )
