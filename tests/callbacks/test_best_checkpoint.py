"""Best and last checkpoint of a run on the command line."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lightning_condkd.cli import main
from lightning_condkd.models import DigitsNet, Observer
from tests.conftest import ROOT

QUICK = [
    *("--config", str(ROOT / "configs" / "quickstart.yaml")),
    "--trainer.callbacks=null",
    "--trainer.max_epochs=4",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--model.init_args.inversion.init_args.cadence.distill_steps=4",
    "--model.init_args.inversion.init_args.batch_size=32",
]
FORGET = ["--trainer.callbacks+=tests.helpers.callbacks.Forget"]
BEST = "best_student_accuracy.ckpt"


def at(root: Path) -> str:
    return f"--trainer.default_root_dir={root}"


def folder(root: Path, run: int = 0) -> Path:
    return root / "lightning_logs" / f"version_{run}"


def best(root: Path, run: int = 0) -> Path:
    return folder(root, run) / "checkpoints" / BEST


def last(root: Path, run: int = 0) -> Path:
    [path] = [path for path in best(root, run).parent.glob("*.ckpt") if not path.name.startswith("best_")]
    return path


def content(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def student(path: Path) -> dict[str, torch.Tensor]:
    return {n: v for n, v in content(path)["state_dict"].items() if n.startswith("student.")}


def rounds(root: Path, run: int = 0) -> int:
    return int(json.loads((folder(root, run) / "summary.json").read_text())["rounds"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose student forgets all before the last validation."""
    root = tmp_path_factory.mktemp("run")
    longer = ["--trainer.max_epochs=6", "--model.init_args.inversion.init_args.cadence.distill_steps=20"]
    main(["fit", *QUICK, *longer, *FORGET, "--trainer.callbacks.epoch=5", at(root)])
    return root


def accuracy(said: str, name: str = "test/student_accuracy") -> float:
    found = re.search(rf"{name}\s+\S\s+([0-9.]+)", said)
    assert found, said
    return float(found[1])


def test_best_and_last_student_are_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((folder(run) / "summary.json").read_text())
    found = {}
    for name in ("best", "last"):
        main(["test", *QUICK, at(run), f"--ckpt_path={name}"])
        found[name] = accuracy(capsys.readouterr().out)
    assert found == pytest.approx({name: summary[f"student_accuracy_{name}"] for name in found}, abs=1e-6)
    assert found["best"] > found["last"] + 0.1
    assert content(best(run))["epoch"] in range(5)


def test_the_best_one_holds_no_more_than_is_needed(run: Path) -> None:
    assert content(best(run)).keys().isdisjoint({"optimizer_states", "callbacks", "lr_schedulers"})
    assert content(best(run))["condkd"]["bank"] is None
    assert content(last(run))["condkd"]["bank"] is not None
    assert best(run).stat().st_size < 0.7 * last(run).stat().st_size


@pytest.mark.parametrize("given", ["folder", "file"])
def test_the_best_student_is_exported(
    given: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(folder(run) if given == "folder" else best(run)), str(tmp_path / "student.safetensors")])
    assert str(best(run)) in capsys.readouterr().out
    weights, kept = load_file(tmp_path / "student.safetensors"), student(best(run))
    DigitsNet(width=16).load_state_dict(weights)
    assert all(torch.equal(weights[name], kept[f"student.network.{name}"]) for name in weights)
    assert any(not torch.equal(kept[name], value) for name, value in student(last(run)).items())


def test_a_run_is_not_resumed_from_weights_alone(run: Path, tmp_path: Path) -> None:
    for path in ("best", str(best(run))):
        with pytest.raises(ValueError, match=r"holds weights alone, .* give --ckpt_path last"):
            main(["fit", *QUICK, at(run), f"--ckpt_path={path}"])
    copy = folder(tmp_path) / "checkpoints" / BEST
    copy.parent.mkdir(parents=True)
    copy.write_bytes(best(run).read_bytes())
    with pytest.raises(FileNotFoundError, match=f"found only weights, such as {copy}, which cannot be resumed"):
        main(["fit", *QUICK, at(tmp_path), "--ckpt_path=last"])
    main(["test", *QUICK, at(tmp_path), "--ckpt_path=last"])  # they can be measured
    with pytest.raises(FileNotFoundError, match=r"expected checkpoints in .*: name the file of one"):
        main(["export", str(tmp_path), str(tmp_path / "x.safetensors")])


def test_a_resumed_run_goes_on_with_the_best_of_the_run_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*QUICK, *FORGET, "--trainer.callbacks.epoch=3", at(tmp_path)]
    main(["fit", *command, "--trainer.max_epochs=3"])
    os.utime(best(tmp_path), (2e9, 2e9))  # newer than the last one
    before = best(tmp_path).read_bytes()
    main(["fit", *command, "--ckpt_path=last"])
    assert rounds(tmp_path, 1) == 4
    assert best(tmp_path).read_bytes() == before
    assert not best(tmp_path, 1).exists()
    os.utime(best(tmp_path), (1e9, 1e9))
    with pytest.warns(UserWarning, match="best is of .*version_0: the newer run .*version_1 has none of its own"):
        main(["test", *QUICK, at(tmp_path), "--ckpt_path=best"])
    best(tmp_path).unlink()  # then the best of what comes is kept
    main(["fit", *QUICK, at(tmp_path), "--trainer.max_epochs=5", "--ckpt_path=last"])
    assert content(best(tmp_path, 3))["epoch"] == 4  # the test before has taken a number, too


def test_without_validation_data_there_is_no_best_one(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*monitor.*")
        main(["fit", *QUICK, at(tmp_path), "--data.init_args.val_data=null"])
    assert last(tmp_path).is_file()
    assert not best(tmp_path).exists()
    with pytest.raises(FileNotFoundError, match=r"--ckpt_path best: expected a file best_\*.ckpt in .*, found none"):
        main(["test", *QUICK, at(tmp_path), "--ckpt_path=best"])


def test_without_checkpoints_there_is_no_best_one(tmp_path: Path) -> None:
    main(["fit", *QUICK, at(tmp_path), "--trainer.enable_checkpointing=false"])
    assert not list(tmp_path.rglob("*.ckpt"))


OWN = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.mode=max"]


@pytest.mark.parametrize("monitor", ["val/student_accuracy", "bank/images", None])
def test_checkpoints_of_the_users_own_stay_as_they_are(monitor: str | None, tmp_path: Path) -> None:
    own = [*OWN, f"--trainer.callbacks.filename={BEST.removesuffix('.ckpt')}"]
    own += [f"--trainer.callbacks.monitor={monitor}"] if monitor else []
    main(["fit", *QUICK, *own, at(tmp_path)])
    names = {path.name for path in best(tmp_path).parent.glob("*.ckpt")}
    assert len(names) == (1 if monitor == "val/student_accuracy" else 2), names
    whole = [name for name in names if "optimizer_states" in content(best(tmp_path).parent / name)]
    assert len(whole) == 1
    main(["fit", *QUICK, *own, at(tmp_path), "--trainer.max_epochs=5", "--ckpt_path=last"])
    assert rounds(tmp_path, 1) == 5


def test_runs_with_one_folder_of_checkpoints_keep_a_best_one_each(tmp_path: Path) -> None:
    shared = ["--trainer.callbacks+=ModelCheckpoint", f"--trainer.callbacks.dirpath={tmp_path / 'shared'}"]
    for seed in (1, 2):
        main(["fit", *QUICK, *shared, at(tmp_path), f"--seed_everything={seed}", "--trainer.max_epochs=3"])
    assert {path.name for path in (tmp_path / "shared").glob("best_*")} == {BEST, BEST.replace(".ckpt", "-v1.ckpt")}


def test_the_bank_of_the_last_one_survives_its_capacity(tmp_path: Path) -> None:
    small = [*QUICK, "--data.init_args.bank_capacity=32", at(tmp_path)]
    main(["fit", *small, *FORGET, "--trainer.callbacks.epoch=3", "--trainer.max_epochs=6"])
    assert len(list((folder(tmp_path) / "bank").iterdir())) < 6
    main(["fit", *small, "--trainer.max_epochs=7", "--ckpt_path=last"])
    assert rounds(tmp_path, 1) == 7


def test_the_best_teacher_is_kept_and_loads_as_weights(tmp_path: Path) -> None:
    recipe = ["fit", "--config", str(ROOT / "configs" / "digits" / "teacher.yaml"), "--trainer.max_epochs=3"]
    recipe += ["--trainer.check_val_every_n_epoch=1", "--trainer.enable_progress_bar=false", at(tmp_path)]
    main([*recipe, f"--model.output={tmp_path / 'teacher.safetensors'}"])
    path = folder(tmp_path) / "checkpoints" / "best_accuracy.ckpt"
    network = DigitsNet(width=32)
    Observer(network, mean=[0.3059], std=[0.3754], weights=str(path))
    assert torch.equal(network.linear.weight, content(path)["state_dict"]["network.network.linear.weight"])


def test_experts_have_no_best_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every validation measures another network."""
    monkeypatch.chdir(tmp_path)
    recipe = ["fit", "--config", str(ROOT / "configs" / "digits" / "experts.yaml"), "--trainer.max_epochs=2"]
    main([*recipe, "--model.epochs=1", "--trainer.check_val_every_n_epoch=1", "--trainer.enable_progress_bar=false"])
    assert list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("best_*"))
