"""The recipes of configs/losses: every loss has one, laid over any task it means the same, and it runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import torch
import yaml
from jsonargparse import Namespace

from lightning_condkd import distillation
from lightning_condkd.distillation import WeightedLosses
from lightning_condkd.modules.teacher_student import TeacherStudent
from lightning_condkd.parser import ReadableLightningParser
from lightning_condkd.training.run_record import constructor_arguments, settings
from tests.conftest import ROOT
from tests.helpers import losses, toy

RECIPES = sorted((ROOT / "configs" / "losses").glob("*.yaml"))
DIGITS, QUICK = ROOT / "configs" / "digits" / "distillation.yaml", ROOT / "configs" / "quickstart.yaml"
TASKS = {"Distillation": DIGITS, "CondKD": QUICK}
MAPS = {"teacher_map", "student_map", "teacher_maps", "student_maps"}  # by default the stages
FREE = MAPS | {"second_view", "losses", "head_width"}
NETWORK = {"depth": 8, "in_channels": 1}
HEAD = {"init_args": {"token_size": 8, "width": 16, "depth": 1, "batch_multiplier": 2}}
SMALL: dict[str, dict[str, dict[str, int]]] = {
    "gendd": HEAD,
    "gendd_unlabeled": HEAD,
    "crd": {"init_args.losses.crd.init_args": {"negatives": 16}},
}
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def _stated(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and arguments of all classes in a part of a recipe."""
    if isinstance(part, str) and part in losses.names():
        yield part, {}
    if not isinstance(part, dict):
        return
    if "class_path" in part:
        yield part["class_path"], part.get("init_args", {})
    for name, value in part.items():
        if name != "class_path":
            yield from _stated(value)


def _of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return list(_stated(yaml.safe_load(path.read_text())["model"]["init_args"]["distillation"]))


@cache
def _task(task: str) -> tuple[ReadableLightningParser, Namespace]:
    """Return a parser of module and data as the command line has it, and a task with small networks of three stages."""
    parser = ReadableLightningParser(exit_on_error=False)
    parser.add_lightning_class_args(L.LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    content = yaml.safe_load(TASKS[task].read_text())
    networks = [{"class_path": "CifarResNet", "init_args": {**NETWORK, "width": width}} for width in (4, 2)]
    given = content["model"]["init_args"]
    given["teacher"]["init_args"] |= {"network": networks[0], "weights": None}
    given["student"] = networks[1]
    return parser, parser.parse_object({name: content[name] for name in ("model", "data")})


@cache
def _made(task: str, path: Path) -> tuple[TeacherStudent, L.LightningDataModule]:
    """Return module and data of a recipe over a task, of small sizes."""
    parser, config = _task(task)
    content = yaml.safe_load(path.read_text())
    for names, sizes in SMALL.get(path.stem, {}).items():
        part = content["model"]["init_args"]["distillation"]
        for name in names.split("."):
            part = part[name]
        part |= sizes
    made = parser.instantiate_classes(parser.parse_object(content, cfg_base=config.clone()))
    return cast(TeacherStudent, made.model), made.data


def test_every_loss_has_a_recipe() -> None:
    assert {name for path in RECIPES for name, _ in _of(path)} >= set(losses.names())


@every_recipe
def test_a_recipe_states_every_number_of_its_losses(path: Path) -> None:
    """What it leaves out would be inherited from the loss that the task names."""
    for name, given in _of(path):
        signature = constructor_arguments(getattr(distillation, name))
        assert signature - FREE <= set(given) <= signature


@every_recipe
def test_over_two_tasks_a_recipe_means_the_same(path: Path) -> None:
    first, second = (_made(task, path)[0].distillation for task in TASKS)
    assert settings(first) == settings(second)
    if isinstance(first, WeightedLosses):
        assert list(first.losses) == list(first.weights)
        assert all(type(loss).__name__ in dict(_of(path)) for loss in first.inner_losses())


@pytest.mark.parametrize("task", TASKS)
@every_recipe
def test_a_recipe_runs(path: Path, task: str) -> None:
    module, data = _made(task, path)
    before = {name: value.clone() for name, value in module.student.named_parameters()}
    torch.manual_seed(0)
    trainer = toy.silent_trainer(fast_dev_run=3)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step >= 3
    state = module.state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert any(not torch.equal(value, before[name]) for name, value in module.student.named_parameters())
