"""What holds for every distillation loss, present and future: a loss is tested by being exported."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.data import CondensedDataModule
from lightning_condkd.modules import CondKD
from tests.helpers import losses, toy
from tests.helpers.callbacks import SaveAt

SAVED = 18  # within the last round's student steps
OWNERS = {
    "CRD",
    "FitNet",
    "GenDD",
    "NormDirection",
    "OFAKD",
    "ReviewKD",
    "SimKD",
    "TeacherClassifier",
    "VID",
    "VkD",
    "WeightedLosses",
}
every_loss = pytest.mark.parametrize("name", losses.names())


class Watch(L.Callback):
    """Copies the weights before the first step."""

    def __init__(self) -> None:
        self.before: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}


class Whole(NamedTuple):
    model: CondKD
    before: dict[str, Tensor]
    teacher: tuple[dict[str, Tensor], dict[str, Tensor]]
    metrics: dict[str, float]
    file: Path


def _fit(model: CondKD, *callbacks: L.Callback, resume: Path | None = None) -> L.Trainer:
    trainer = toy.silent_trainer(max_epochs=3, callbacks=list(callbacks))
    trainer.fit(model, CondensedDataModule(toy.condensed_set(), batch_size=8), ckpt_path=resume)
    return trainer


@cache
def _whole(name: str) -> Whole:
    file, watch, model = Path(mkdtemp(), "cut.ckpt"), Watch(), losses.condkd(name)
    teacher = {key: value.clone() for key, value in model.teacher.state_dict().items()}
    trainer = _fit(model, watch, SaveAt(SAVED, file))
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return Whole(model, watch.before, (teacher, model.teacher.state_dict()), metrics, file)


def _hooks(module: nn.Module) -> Iterator[Any]:
    for part in module.modules():
        yield from (*part._forward_hooks, *part._forward_pre_hooks)


def _changed(whole: Whole, prefix: str) -> dict[str, bool]:
    after = dict(whole.model.named_parameters())
    # Vectors may stay: a bias before BatchNorm has no effect.
    names = [n for n in whole.before if n.startswith(prefix) and n in after and after[n].requires_grad]
    names = [name for name in names if after[name].dim() > 1]
    return {name: not torch.equal(whole.before[name], after[name]) for name in names}


def test_losses_are_found() -> None:
    assert OWNERS | {"KLDistillation", "DKD", "MSARC"} <= set(losses.names())


@every_loss
def test_student_and_loss_learn_and_the_teacher_does_not(name: str) -> None:
    whole = _whole(name)
    own = _changed(whole, "distillation.")
    assert bool(own) == (name in OWNERS)
    assert all(own.values()), own
    assert any(_changed(whole, "student.").values())
    assert toy.same(*whole.teacher)
    assert not any(parameter.requires_grad for parameter in whole.model.teacher.parameters())
    assert all(value == value for value in whole.metrics.values())


@every_loss
def test_no_hook_stays(name: str) -> None:
    model = _whole(name).model
    assert not [*_hooks(model.teacher.network), *_hooks(model.student.network)]


@every_loss
def test_a_run_resumed_within_a_round_ends_the_same(name: str) -> None:
    whole, model = _whole(name), losses.condkd(name)
    assert torch.load(whole.file, weights_only=True)["global_step"] == SAVED
    _fit(model, resume=whole.file)
    assert toy.same(whole.model.state_dict(), model.state_dict())


@every_loss
def test_a_loaded_checkpoint_predicts_the_same(name: str) -> None:
    whole = _whole(name)
    parts = {"inversion": toy.fast(), "distillation": losses.make(name)}
    fresh = CondKD.load_from_checkpoint(
        whole.file, teacher=losses.teacher(), student=losses.network(2, "other"), **parts, map_location="cpu"
    )
    images = torch.rand(4, *toy.SHAPE)
    with torch.no_grad():
        first = fresh.eval()(images)
    assert first.shape == (4, toy.CLASSES)
    assert bool(first.isfinite().all())
    state = torch.load(whole.file, weights_only=True)["state_dict"]
    assert toy.same({key: fresh.state_dict()[key] for key in state}, state)
