"""The recipes of configs/methods: laid over any task they mean the same, and every method runs with its own."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_condkd import inversion
from lightning_condkd.cli import main
from lightning_condkd.data import CondensedSet
from lightning_condkd.data.image_datamodules import load_digits_split
from tests.conftest import ROOT
from tests.helpers import diffusion
from tests.helpers.contract import methods

RECIPES = sorted((ROOT / "configs" / "methods").glob("*.yaml"))
TASKS = [ROOT / "configs" / "quickstart.yaml", ROOT / "configs" / "cifar10" / "fast.yaml"]
# Networks of the task's shapes, or objects with defaults of their own.
FREE = {"memory_generator", "encoder", "selection", "augment", "images", "ring_dtype", "memory"}
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def _printed(capsys: pytest.CaptureFixture[str], *configs: Path) -> dict[str, Any]:
    with pytest.raises(SystemExit) as end:
        main(["fit", *(f"--config={path}" for path in configs), "--print_config"])
    assert end.value.code == 0
    printed: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return printed


def test_every_method_has_a_recipe() -> None:
    stated = {yaml.safe_load(path.read_text())["model"]["init_args"]["inversion"]["class_path"] for path in RECIPES}
    assert stated == set(methods())


@every_recipe
def test_a_recipe_states_every_number_of_its_method(path: Path) -> None:
    """What it leaves out would be inherited from the method that the task names."""
    stated = yaml.safe_load(path.read_text())["model"]["init_args"]["inversion"]
    signature = inspect.signature(getattr(inversion, stated["class_path"])).parameters
    assert set(signature) - FREE <= set(stated["init_args"]) <= set(signature)


@every_recipe
def test_over_two_tasks_a_recipe_means_the_same(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (_printed(capsys, task, path) for task in TASKS)
    for part in ("inversion", "distillation"):
        assert first["model"]["init_args"][part] == second["model"]["init_args"][part]
    assert first["data"]["init_args"]["mix"] == second["data"]["init_args"]["mix"]
    assert first["model"]["init_args"]["teacher"] != second["model"]["init_args"]["teacher"]


@every_recipe
def test_a_recipe_runs(path: Path, tmp_path: Path) -> None:
    """With alignment, from the command line, for a moment."""
    real = tmp_path / "digits.safetensors"
    source = load_digits_split(train=True)
    CondensedSet(source.images[:64].float() / 255, source.labels[:64]).save(real)
    stated = yaml.safe_load(path.read_text())["model"]["init_args"]["inversion"]["init_args"]
    small = {"cadence.synthesis_steps": 2, "cadence.distill_steps": 2, "cadence.repeats": 1, "cadence.warmup_rounds": 0}
    small |= {"batch_size": 16} | ({"images": real} if "images" in stated else {})
    small |= {"cadence.batches": 1, "cadence.warmup_batches": 1} if "batches" in stated["cadence"] else {}
    if "pipeline" in stated:
        small["pipeline"] = diffusion.save(diffusion.class_pipeline(classes=11), tmp_path / "pipeline")
    arguments = [f"--config={TASKS[0]}", f"--config={path}", "--trainer.max_epochs=2", "--trainer.callbacks=[]"]
    arguments += [f"--model.init_args.inversion.init_args.{name}={value}" for name, value in small.items()]
    arguments += [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    main(["fit", *arguments])
    summary = json.loads(next(tmp_path.rglob("summary.json")).read_text())
    live = stated.get("source") == "live" or path.stem == "pre_dfkd"
    assert summary["images_synthesized"] == (2 * 2 * 115 if live else 2 * 16)  # 115: a batch of 128 but a tenth
    checkpoint = torch.load(next(tmp_path.rglob("epoch=*.ckpt")), weights_only=True, map_location="cpu")
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values() if isinstance(value, torch.Tensor))
