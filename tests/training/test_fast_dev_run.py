"""``fast_dev_run`` goes once through all that a run does, and leaves no file behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_condkd.callbacks import CondensedAccuracy, SyntheticImages
from lightning_condkd.callbacks.condensed_only import CondensedOnlyBaseline
from lightning_condkd.cli import main
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.data.image_datamodules import DigitsDataModule
from lightning_condkd.inversion import NoInversion
from lightning_condkd.rounds import Cadence, Unit
from tests.conftest import ROOT
from tests.helpers import contract, toy
from tests.modules.test_classification import classifier

RECIPES = [
    "quickstart",
    *(f"digits/{name}" for name in ("teacher", "distillation", "dm", "dc", "dsa", "experts", "generative")),
]


class Units(L.Callback):
    """What was done, and the student's rate."""

    def __init__(self, model: Any) -> None:
        self.units: list[Unit] = []
        self.rates: list[float] = []
        take = model._take

        def noting(unit: Unit) -> None:
            self.units.append(unit)
            self.rates.append(model.trainer.optimizers[0].param_groups[0]["lr"])
            take(unit)

        model._take = noting


@pytest.mark.parametrize("steps", [1, 5, True])
@pytest.mark.parametrize("scheduler", [None, lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 9)])
def test_every_step_is_one_unit_of_each_phase(steps: int, scheduler: Any, tmp_path: Path) -> None:
    model = toy.condkd(toy.fast(cadence=Cadence(6, 30, warmup_rounds=7)), student_scheduler=scheduler)
    noted, count = Units(model), int(steps)
    run = toy.fit(model, fast_dev_run=steps, callbacks=[noted], default_root_dir=tmp_path)
    assert [unit.phase for unit in noted.units] == ["synthesize", "distill"] * count
    assert [unit.counter for unit in noted.units] == list(range(2 * count))
    assert all(unit.first and unit.last and unit.round == 7 for unit in noted.units)
    assert scheduler or set(noted.rates) == {0.2}
    assert len(run.bank) == 12 * count
    assert run.trainer.global_step == count
    assert {"synthesis/adversarial", "distillation/agreement", "bank/images"} <= set(run.metrics)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cadence", [Cadence(0, 3), Cadence(0, 30)], ids=["shorter than the run", "longer"])
def test_a_round_without_synthesis(cadence: Cadence) -> None:
    model = toy.condkd(NoInversion(cadence=cadence))
    noted = Units(model)
    run = toy.fit(model, fast_dev_run=5, callbacks=[noted])
    assert (
        [unit.phase for unit in noted.units] == ["distill"] * min(5, cadence.length) == ["distill"] * len(noted.units)
    )
    assert run.trainer.global_step == len(noted.units)


@pytest.mark.parametrize("name", contract.methods())
def test_every_method_runs(name: str) -> None:
    run = contract.fit(name, weight=5.0, fast_dev_run=2)
    assert not toy.same(toy.student_of(run), dict(toy.network("student 1").state_dict()))


def test_an_old_bank_beside_it_stays_as_it_is(tmp_path: Path) -> None:
    saving = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    toy.fit(toy.condkd(), max_epochs=2, **saving)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert before
    toy.fit(toy.condkd(), fast_dev_run=1, **saving)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_the_baseline_takes_the_steps_of_the_run() -> None:
    baseline, labels = CondensedOnlyBaseline(), torch.arange(6) % toy.CLASSES
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(6, *toy.SHAPE), labels))
    taken: list[int] = []

    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            taken.append(id(self))
            super().step(closure)

    model = toy.condkd(student_optimizer=lambda parameters: Counting(parameters, lr=0.1))
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=loader)
    toy.silent_trainer(fast_dev_run=3, callbacks=[baseline, SyntheticImages()]).fit(model, data)
    assert sorted(taken.count(optimizer) for optimizer in set(taken)) == [3, 3]
    assert baseline.accuracy is not None


def test_a_classifier_is_not_exported(tmp_path: Path) -> None:
    output = tmp_path / "weights.safetensors"
    output.write_bytes(b"of a long run")
    trainer = toy.silent_trainer(fast_dev_run=2, default_root_dir=tmp_path)
    trainer.fit(classifier(output=output), DigitsDataModule(batch_size=64))
    assert trainer.global_step == 2
    assert output.read_bytes() == b"of a long run"


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_with_the_default_callbacks_leave_no_file(
    recipe: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", str(ROOT / "configs" / f"{recipe}.yaml"), f"--trainer.fast_dev_run={steps}"])
    assert not list(tmp_path.iterdir())


def test_judging_a_set_takes_one_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published thousand would take minutes."""
    seen: list[int] = []
    monkeypatch.setattr(
        "lightning_condkd.callbacks.condensed_accuracy.evaluate",
        lambda *args, **_: seen.append(args[5].epochs) or type("Result", (), {"last": [0.5]}),
    )
    monkeypatch.chdir(tmp_path)
    dm = ["fit", "--config", str(ROOT / "configs" / "digits" / "dm.yaml"), "--trainer.fast_dev_run=1"]
    main([*dm, f"--trainer.callbacks+={CondensedAccuracy.__name__}"])
    assert seen == [1]
