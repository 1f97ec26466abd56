"""The ramp of Adam's second decay rate, against the formula of GenDD's official code."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.optim import Optimizer

from lightning_condkd.callbacks import Beta2Ramp
from tests.helpers import toy
from tests.helpers.callbacks import SaveAt
from tests.helpers.small_runs import Small, classification, condkd, distillation

ADAM = partial(torch.optim.AdamW, lr=0.01, betas=(0.8, 0.999))
TASKS = {"condkd": condkd, "distillation": distillation}
STEPS = {"condkd": 2 * 4, "distillation": 3 * 2}  # two rounds after the warm-up, three epochs


def published(i: int, steps: int, lowest: float) -> float:
    return 0.999 - (0.999 - lowest) / 2 * (1 + math.cos(math.pi * i / (steps - 1)))


class Seen(L.Callback):
    """The decay rates with which each optimizer steps."""

    def __init__(self) -> None:
        self.rates: dict[int, list[tuple[float, float]]] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for number, optimizer in enumerate(trainer.optimizers):
            optimizer.register_step_post_hook(partial(self._see, number))

    def _see(self, number: int, optimizer: Optimizer, *_: object) -> None:
        self.rates.setdefault(number, []).extend(group["betas"] for group in optimizer.param_groups[:1])


def fit(small: Small, folder: Path, *callbacks: L.Callback, ckpt_path: Path | None = None, **options: Any) -> L.Trainer:
    given = {"max_epochs": 3, "limit_val_batches": 0, "default_root_dir": folder, **options}
    trainer = toy.silent_trainer(callbacks=list(callbacks), **given)
    trainer.fit(small[0], small[1], ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("name", TASKS)
def test_each_step_of_the_student_has_the_published_rate(name: str, tmp_path: Path) -> None:
    seen, steps = Seen(), STEPS[name]
    fit(TASKS[name](tmp_path, student_optimizer=ADAM), tmp_path, Beta2Ramp(0.96), seen)
    expected = [(0.8, pytest.approx(published(i, steps, 0.96), abs=1e-12)) for i in range(steps)]
    assert seen.rates[0] == expected
    others = {rates for number, found in seen.rates.items() if number for rates in found}
    assert not {0.8} & {first for first, _ in others}


@pytest.mark.parametrize("name", TASKS)
def test_the_ramp_changes_the_weights(name: str, tmp_path: Path) -> None:
    ends = []
    for callbacks in ([], [Beta2Ramp(0.5)]):
        small = TASKS[name](tmp_path, student_optimizer=ADAM)
        fit(small, tmp_path, *callbacks)
        ends.append(dict(small[0].student.state_dict()))  # type: ignore[union-attr, operator]
    assert not toy.same(*ends)


@pytest.mark.parametrize(("name", "step"), [("condkd", 15), ("distillation", 3)])
def test_a_resumed_run_continues_exactly(name: str, step: int, tmp_path: Path) -> None:
    whole, file = TASKS[name](tmp_path, student_optimizer=ADAM), tmp_path / "cut.ckpt"
    fit(whole, tmp_path, Beta2Ramp(), SaveAt(step, file))
    rest, seen = TASKS[name](tmp_path, student_optimizer=ADAM), Seen()
    fit(rest, tmp_path, Beta2Ramp(), seen, ckpt_path=file)
    assert toy.same(dict(rest[0].state_dict()), dict(whole[0].state_dict()))
    assert seen.rates[0][-1][1] == pytest.approx(0.999)


def test_accumulated_steps_count_as_one(tmp_path: Path) -> None:
    seen = Seen()
    small = distillation(tmp_path, student_optimizer=ADAM)
    assert fit(small, tmp_path, Beta2Ramp(), seen, accumulate_grad_batches=2).global_step == 3
    assert [beta2 for _, beta2 in seen.rates[0]] == pytest.approx([0.95, 0.9745, 0.999])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (distillation, "expected a student_optimizer with betas, such as torch.optim.AdamW, got SGD"),
        (condkd, "expected a student_optimizer with betas, such as torch.optim.AdamW, got SGD"),
        (classification, "expected CondKD or Distillation, got Classification"),
    ],
)
def test_a_run_without_adam_or_student_is_refused(make: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"Beta2Ramp: {match}"):
        fit(make(tmp_path), tmp_path, Beta2Ramp())


def test_a_run_without_an_end_is_refused(tmp_path: Path) -> None:
    constant = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
    small = distillation(tmp_path, student_optimizer=ADAM, student_scheduler=constant)
    with pytest.raises(ValueError, match="Beta2Ramp: the ramp ends with the run, which has no end: set"):
        fit(small, tmp_path, Beta2Ramp(), max_epochs=-1)


@pytest.mark.parametrize("lowest", [-0.1, 0.999, 1.0])
def test_a_lowest_rate_out_of_its_range_is_refused(lowest: float) -> None:
    with pytest.raises(ValueError, match=r"lowest: expected a number in \[0, 0.999\)"):
        Beta2Ramp(lowest)
