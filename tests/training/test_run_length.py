"""A run in which something that was asked for cannot happen is refused, or says so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_condkd.callbacks.condensed_only import CondensedOnlyBaseline
from lightning_condkd.cli import main
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.inversion import DFAD, GeneratorSettings, Inversion, NoInversion
from lightning_condkd.rounds import Cadence
from lightning_condkd.training.run_length import run_steps, student_rounds
from tests.conftest import ROOT
from tests.helpers import toy
from tests.helpers.callbacks import SaveAt

# A round of toy.CADENCE: four steps of synthesis, four of the student, one round of warm-up.
ENDLESS = {"max_epochs": -1}


@pytest.mark.parametrize(
    ("ends", "steps", "rounds"),
    [
        ({"max_epochs": 3}, 24, 2),
        ({"max_epochs": 1}, 8, 0),
        ({"max_epochs": 0}, 0, 0),
        ({**ENDLESS, "max_steps": 12}, 12, 0),
        ({**ENDLESS, "max_steps": 13}, 13, 1),
        ({**ENDLESS, "max_steps": 20}, 20, 1),
        ({"max_epochs": 9, "max_steps": 21}, 21, 2),
        ({"max_epochs": 2, "max_steps": 1000}, 16, 1),
        ({**ENDLESS, "max_steps": 2}, 2, 0),
        (ENDLESS, None, None),
    ],
)
def test_the_rounds_of_the_student_are_counted(ends: dict[str, int], steps: int | None, rounds: int | None) -> None:
    trainer = toy.silent_trainer(**ends)
    assert run_steps(trainer, toy.CADENCE.length) == steps
    assert student_rounds(trainer, toy.CADENCE) == rounds


@pytest.mark.parametrize("ends", [{"max_epochs": 1}, {"max_epochs": 9, "max_steps": 12}])
@pytest.mark.parametrize("scheduler", [None, lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1)])
def test_a_run_that_ends_before_the_first_student_step_is_refused(ends: dict[str, int], scheduler: Any) -> None:
    model = toy.condkd(student_scheduler=scheduler)
    match = r"student would never be trained.*warmup_rounds \(now 1\), or raise max_epochs to 2.*above 12"
    with pytest.raises(ValueError, match=match):
        toy.fit(model, **ends)
    assert model.unit is None


def test_a_warm_up_without_synthesis_counts_too() -> None:
    with pytest.raises(ValueError, match="2 warm-up rounds of 4 steps and 0 steps of synthesis"):
        toy.fit(toy.condkd(NoInversion(cadence=Cadence(0, 4, warmup_rounds=2))), max_epochs=2)


@pytest.mark.parametrize("ends", [{"max_epochs": 2}, {**ENDLESS, "max_steps": 13}])
def test_the_shortest_run_with_a_student_step_trains_it(ends: dict[str, int]) -> None:
    model = toy.condkd()
    before = copy.deepcopy(model.student.state_dict())
    toy.fit(model, **ends)
    assert not toy.same(before, dict(model.student.state_dict()))


def test_a_resumed_run_may_end_in_the_round_that_it_resumes(tmp_path: Path) -> None:
    toy.fit(toy.condkd(), max_epochs=3, callbacks=[SaveAt(18, tmp_path / "cut.ckpt")], default_root_dir=tmp_path)
    trainer = toy.silent_trainer(max_epochs=-1, max_steps=19, default_root_dir=tmp_path)
    trainer.fit(toy.condkd(), CondensedDataModule(toy.condensed_set(), batch_size=8), ckpt_path=tmp_path / "cut.ckpt")
    assert trainer.global_step == 19


def test_without_student_steps_a_run_says_that_it_only_synthesises() -> None:
    with pytest.warns(UserWarning, match="distill_steps is 0: this run only synthesises"):
        run = toy.fit(toy.condkd(toy.fast(cadence=Cadence(2, 0, repeats=2))), max_epochs=1)
    assert len(run.bank) == 24


def _live() -> Inversion:
    return DFAD(cadence=Cadence(0, 2), batch_size=4, generator=GeneratorSettings(width=2, latent_size=4))


def test_without_synthesis_there_must_be_images() -> None:
    model = toy.condkd(toy.fast(cadence=Cadence(0, 4)))
    with pytest.raises(ValueError, match=r"Fast leaves empty here: set inversion.cadence.synthesis_steps above 0"):
        toy.fit(model, mix=0.0)
    with pytest.raises(ValueError, match=r"NoInversion leaves empty here: raise data.mix"):
        toy.fit(toy.condkd(NoInversion(cadence=Cadence(0, 4))), mix=0.0)
    assert model.unit is None
    with pytest.warns(UserWarning, match="synthesis_steps is 0: Fast makes no image"):
        toy.fit(toy.condkd(toy.fast(cadence=Cadence(0, 4))), max_epochs=1)
    with pytest.warns(UserWarning, match="the generator of DFAD is not trained"):
        toy.fit(toy.condkd(_live()), mix=0.5, max_epochs=1)


def test_a_filled_bank_needs_no_synthesis(recwarn: pytest.WarningsRecorder) -> None:
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, mix=0.0)
    data.transfer_set.append(torch.rand(6, *toy.SHAPE), torch.arange(6) % toy.CLASSES, 0)
    trainer = toy.silent_trainer(max_epochs=1)
    trainer.fit(toy.condkd(toy.fast(cadence=Cadence(0, 4))), data)
    toy.fit(toy.condkd(NoInversion(cadence=Cadence(0, 4))), max_epochs=1)
    assert not [warning for warning in recwarn if "synthesis_steps" in str(warning.message)]


def test_the_baseline_takes_the_steps_of_the_run() -> None:
    """Not those of max_epochs where max_steps ends the run."""
    taken: list[int] = []

    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            taken.append(id(self))
            super().step(closure)

    labels = torch.arange(6) % toy.CLASSES
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(6, *toy.SHAPE), labels))
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=loader)
    model = toy.condkd(student_optimizer=lambda parameters: Counting(parameters, lr=0.1))
    trainer = toy.silent_trainer(max_epochs=5, max_steps=15, callbacks=[CondensedOnlyBaseline()])
    trainer.fit(model, data)
    assert sorted(taken.count(optimizer) for optimizer in set(taken)) == [3, 3]


def test_the_command_line_refuses_a_first_trial_of_few_rounds(tmp_path: Path) -> None:
    """A cadence of two numbers keeps no warm-up of the default; ten rounds of twenty would do nothing."""
    cadence = "--model.init_args.inversion.init_args.cadence"
    sizes = [f"{cadence}.warmup_rounds=20", f"{cadence}.distill_steps=2", "--trainer.max_epochs=10"]
    quick = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    with pytest.raises(ValueError, match=r"lower inversion.cadence.warmup_rounds \(now 20\).*max_epochs to 21"):
        main([*quick, *sizes])
