"""A default schedule ends with the run as it is configured now, also after a resume to another length."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, OneCycleLR, SequentialLR

from lightning_condkd.data import CondensedDataModule
from lightning_condkd.data.image_datamodules import DigitsDataModule
from lightning_condkd.inversion import DAFL, DFAD
from lightning_condkd.modules import CondKD
from lightning_condkd.training.schedules import RunCosine, WarmupCosine, WarmupMultiStep
from tests.helpers import contract, toy
from tests.helpers.callbacks import SaveAt
from tests.helpers.small_runs import distillation
from tests.modules.test_classification import classifier, trainer

LAST = toy.CADENCE.length - 1


class Rates(L.Callback):
    """The student's rate in the last step of every round, before the schedule moves."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]


def _cosine(step: int, length: int, base: float = 0.2, floor: float = 1e-3) -> float:
    return base * (floor + (1 - floor) * (1 + math.cos(math.pi * step / length)) / 2)


def _rounds(rates: Rates) -> dict[int, float]:
    return {step // toy.CADENCE.length: rate for step, rate in rates.rates.items() if step % (LAST + 1) == LAST}


def _resumed(path: Path, model: CondKD | None = None, **ends: int) -> Rates:
    rates = Rates()
    run = toy.silent_trainer(callbacks=[rates], default_root_dir=path.parent, **{"max_epochs": -1, **ends})
    data = CondensedDataModule(toy.condensed_set(), batch_size=8)
    run.fit(toy.condkd() if model is None else model, data, ckpt_path=path)
    return rates


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the last unit of a run of four rounds, which has one of warm-up."""
    path = tmp_path_factory.mktemp("run") / "run.ckpt"
    toy.fit(toy.condkd(), max_epochs=4, callbacks=[SaveAt(32, path)], default_root_dir=path.parent)
    return path


@pytest.mark.parametrize(
    ("ends", "length"),
    [
        ({"max_epochs": 9}, 8),
        ({"max_epochs": 5}, 4),
        ({"max_epochs": 99, "max_steps": 45}, 5),
        ({"max_epochs": 99, "max_steps": 44}, 4),
        ({"max_steps": 72}, 8),
    ],
    ids=["longer", "one more", "steps", "steps that end in a synthesis", "steps alone"],
)
def test_a_finished_run_goes_on_along_the_cosine_of_its_new_length(
    finished: Path, ends: dict[str, int], length: int
) -> None:
    rounds = _rounds(_resumed(finished, **ends))
    assert rounds == pytest.approx({number: _cosine(number - 1, length) for number in rounds})
    assert list(rounds) == list(range(4, 4 + len(rounds)))
    assert rounds


def test_a_run_resumed_in_mid_round_takes_the_new_rate_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mid.ckpt"
    toy.fit(toy.condkd(), max_epochs=9, callbacks=[SaveAt(21, path)], default_root_dir=tmp_path)
    rates = _resumed(path, max_epochs=4).rates
    assert {step: rates[step] for step in (21, 23, 24)} == pytest.approx(
        {21: _cosine(1, 3), 23: _cosine(1, 3), 24: _cosine(2, 3)}
    )


@pytest.mark.parametrize("ends", [{"max_epochs": 4}, {"max_epochs": 30, "max_steps": 32}])
def test_the_default_is_the_cosine_of_torch(ends: dict[str, int]) -> None:
    rates = Rates()
    toy.fit(toy.condkd(), callbacks=[rates], **ends)
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    official = CosineAnnealingLR(optimizer, T_max=3, eta_min=2e-4)
    expected = [0.2]
    for _ in range(3):
        expected.append(official.get_last_lr()[0])
        optimizer.step()
        official.step()
    assert list(_rounds(rates).values()) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["CMI", "Fast"])
def test_the_default_ends_where_the_methods_code_does(name: str) -> None:
    """CMI's cosine ends at 0, that of Fast at a thousandth; a schedule of one's own is left alone."""
    rates = Rates()
    run = toy.fit(contract.model(name), max_epochs=4, callbacks=[rates])
    floor = {"CMI": 0.0, "Fast": 1e-3}[name]
    per_round = contract.CADENCE.length
    rounds = [rate for step, rate in rates.rates.items() if step % per_round == per_round - 1]
    assert rounds == pytest.approx([_cosine(step, 3, floor=floor) for step in (0, 0, 1, 2)])
    after_the_run = run.trainer.optimizers[0].param_groups[0]["lr"]
    assert after_the_run == pytest.approx(0.2 * floor, abs=1e-12)


def test_floors_are_those_of_the_official_cosines() -> None:
    ends = {name: contract.make(name).student_lr_floor for name in contract.methods()}
    assert {name for name, floor in ends.items() if floor == 0} == {"CMI", "DFQ", "DeepInversion", "PREDFKD", "ZSKT"}
    assert set(ends.values()) == {0.0, 1e-3}
    assert [make().student_lr_floor for make in (DAFL, DFAD, DAFL.datafree, DFAD.datafree)] == [1e-3, 1e-3, 0.0, 0.0]


def test_the_state_of_a_schedule_does_not_hold_the_run() -> None:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in (0.2, torch.tensor(0.4))]
    first, second = (RunCosine(SGD(groups), length) for length in (4, 8))
    assert not {"length", "floor", "optimizer"} & set(first.state_dict())
    first.optimizer.step()
    first.step()
    second.load_state_dict(first.state_dict())
    expected = [_cosine(1, 8, base, 0.0) for base in (0.2, 0.4)]
    assert [float(group["lr"]) for group in second.optimizer.param_groups] == pytest.approx(expected)
    assert [float(rate) for rate in second.get_last_lr()] == pytest.approx(expected)


@pytest.mark.parametrize("ends", [{"max_epochs": 4}, {"max_epochs": 9, "max_steps": 12}])
def test_a_classifier_goes_on_along_the_cosine_of_its_new_length(ends: dict[str, int], tmp_path: Path) -> None:
    """Epochs of four steps."""
    path, rates = tmp_path / "run.ckpt", Rates()
    data = {"batch_size": 400, "seed": 0}
    trainer(tmp_path, callbacks=[SaveAt(6, path)], limit_val_batches=0).fit(classifier(), DigitsDataModule(**data))
    run = trainer(tmp_path, callbacks=[rates], limit_val_batches=0, **ends)
    run.fit(classifier(), DigitsDataModule(**data), ckpt_path=path)
    length = int(run.estimated_stepping_batches)
    assert rates.rates == pytest.approx({n: _cosine(n, length, 0.1, 0.0) for n in range(6, length)})


def test_what_a_schedule_of_ones_own_keeps_is_said(tmp_path: Path) -> None:
    def model(rounds: int) -> CondKD:
        return toy.condkd(student_scheduler=lambda optimizer: CosineAnnealingLR(optimizer, rounds))

    path = tmp_path / "run.ckpt"
    toy.fit(model(2), callbacks=[SaveAt(24, path)], default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match=r"scheduler.T_max 2, this one 4.*the new values are not used"):
        _resumed(path, model(4), max_epochs=5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda o: CosineAnnealingLR(o, 800), "T_max=800 is not at its end.*once a round after warm-up, 2 times"),
        (lambda o: CosineAnnealingLR(o, 1), "T_max=1 climbs again before the run ends"),
        (lambda o: OneCycleLR(o, 0.1, total_steps=800), "total_steps=800 is not at its end"),
        (lambda o: CosineAnnealingLR(o, 2), ""),
        (lambda o: OneCycleLR(o, 0.1, total_steps=2), ""),
        (lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 1), ""),
        (lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1]), ""),
    ],
)
def test_a_schedule_that_counts_something_else_is_named(make: Any, said: str, recwarn: pytest.WarningsRecorder) -> None:
    if said:
        with pytest.warns(UserWarning, match=said):
            toy.fit(toy.condkd(student_scheduler=make))
    else:
        toy.fit(toy.condkd(student_scheduler=make))
        assert not [warning for warning in recwarn if "student_scheduler" in str(warning.message)]


def test_a_cycle_that_breaks_off_is_refused(tmp_path: Path) -> None:
    model = toy.condkd(student_scheduler=lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=1))
    with pytest.raises(ValueError, match=r"total_steps=1 breaks off before the run ends.*total_steps=2 ends with it"):
        toy.fit(model)
    module = classifier(scheduler=lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=1))
    with pytest.raises(ValueError, match=r"scheduler: OneCycleLR of total_steps=1 breaks off.*once an epoch, 2 times"):
        trainer(tmp_path).fit(module, DigitsDataModule(batch_size=400))


def _walk(make: Callable[[Optimizer], LRScheduler], steps: int, lr: float = 0.3) -> list[float]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedule, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_a_warm_up_and_milestones_are_those_of_torch_in_sequence() -> None:
    def torchs(optimizer: Optimizer) -> LRScheduler:
        first = LinearLR(optimizer, start_factor=1 / 5, total_iters=4)
        return SequentialLR(optimizer, [first, MultiStepLR(optimizer, [10, 13], gamma=0.5)], milestones=[5])

    ours = _walk(lambda optimizer: WarmupMultiStep(optimizer, 5, [15, 18], gamma=0.5), 22)
    assert ours == pytest.approx(_walk(torchs, 22))
    assert len({round(rate, 9) for rate in ours}) == 7


def test_a_warm_up_and_cosine_are_those_of_the_official_code_of_gendd() -> None:
    epochs, warmup, floor, lr = 30, 4, 1e-6, 2e-3
    expected = [lr * (e + 1) / warmup for e in range(warmup)]
    for e in range(warmup, epochs):
        expected.append(floor + (lr - floor) / 2 * (1 + math.cos(math.pi * (e - warmup + 1) / (epochs - warmup))))
    ours = _walk(lambda optimizer: WarmupCosine(optimizer, epochs, warmup), epochs + 3, lr)
    assert ours == pytest.approx([*expected, floor, floor, floor])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (partial(WarmupMultiStep, warmup_iters=0, milestones=[3]), "warmup_iters: expected a number of steps, 1 at"),
        (partial(WarmupCosine, total_iters=5, warmup_iters=0), "warmup_iters: expected a number of steps, 1 at least"),
        (
            partial(WarmupCosine, total_iters=5, warmup_iters=5),
            "warmup_iters: expected fewer than total_iters=5",
        ),
    ],
)
def test_a_warm_up_that_makes_no_sense_is_refused(make: Callable[[Optimizer], LRScheduler], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        _walk(make, 1)


@pytest.mark.parametrize("make", [partial(WarmupMultiStep, milestones=[2]), partial(WarmupCosine, total_iters=4)])
def test_a_warm_up_continues_in_a_resumed_run(make: Callable[..., LRScheduler], tmp_path: Path) -> None:
    ends = []
    for ckpt_path in (None, tmp_path / "5.ckpt"):
        module, data, _ = distillation(tmp_path, student_scheduler=partial(make, warmup_iters=2))
        rates = Rates()
        run = toy.silent_trainer(max_epochs=4, limit_val_batches=0, callbacks=[rates, SaveAt(5, tmp_path / "5.ckpt")])
        run.fit(module, data, ckpt_path=ckpt_path)
        ends.append((module, rates.rates))
    assert toy.same(*(dict(module.state_dict()) for module, _ in ends))
    assert ends[1][1].items() <= ends[0][1].items()
    assert len({round(rate, 3) for rate in ends[0][1].values()}) == 3
