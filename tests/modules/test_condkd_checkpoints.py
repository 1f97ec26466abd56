"""What a user takes home: the trained object, the checkpoint, and exact counts of units."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.inversion import GeneratorSettings
from lightning_condkd.models import Observer
from lightning_condkd.modules import CondKD
from lightning_condkd.rounds import Cadence
from tests.helpers import toy


class Saved(NamedTuple):
    run: toy.Run
    student: nn.Module
    path: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("run")
    student = toy.network("student 1")
    model = toy.condkd(alignment=FeatureAlignment(), student=student)
    saving = ModelCheckpoint(folder, filename="run")
    run = toy.fit(model, callbacks=[saving], enable_checkpointing=True, default_root_dir=folder)
    return Saved(run, student, folder / "run.ckpt")


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_given_student_is_trained_in_place(wrapped: bool) -> None:
    network = toy.network("student 1")
    before = copy.deepcopy(network.state_dict())
    student = Observer(network, mean=(0.5,), std=(1.0,)) if wrapped else network
    run = toy.fit(toy.condkd(student=student))
    observer = run.model.student
    assert observer.network is network
    assert (observer is student) is wrapped
    assert observer.mean is not None
    assert observer.mean.item() == (0.5 if wrapped else 0.25)  # its own normalisation, or the teacher's
    assert not toy.same(before, dict(network.state_dict()))
    statistics = [name for name in before if name.endswith("running_mean")]
    assert not any(torch.equal(before[name], network.state_dict()[name]) for name in statistics)


def test_a_student_without_batch_norm_and_of_another_kind_is_trained() -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, toy.CLASSES))
    before = copy.deepcopy(student.state_dict())
    toy.fit(toy.condkd(student=student, alignment=FeatureAlignment()))
    assert all(not torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_a_checkpoint_gives_the_student_back(saved: Saved) -> None:
    fresh = toy.network("student 1")
    loaded = CondKD.load_from_checkpoint(
        saved.path,
        teacher=toy.observed(toy.network("teacher")),
        student=fresh,
        inversion=toy.fast(),
        alignment=FeatureAlignment(),
    )
    assert toy.same(dict(fresh.state_dict()), dict(saved.student.state_dict()))
    assert toy.same(dict(loaded.state_dict()), dict(saved.run.model.state_dict()))
    assert loaded.seed == toy.SEED
    assert not loaded.teacher.training
    images = torch.rand(4, *toy.SHAPE)
    assert torch.equal(loaded.eval().student(images).logits, saved.run.model.eval().student(images).logits)


def test_a_loaded_module_measures_as_the_trained_one(saved: Saved) -> None:
    labels = torch.arange(24) % toy.CLASSES
    loader = DataLoader(TensorDataset(torch.rand(24, *toy.SHAPE), labels), batch_size=10)
    loaded = CondKD.load_from_checkpoint(
        saved.path,
        teacher=toy.observed(toy.network("teacher")),
        student=toy.network("student 2"),
        inversion=toy.fast(),
        alignment=FeatureAlignment(),
    )
    measured = [toy.silent_trainer().test(model, loader, verbose=False)[0] for model in (loaded, saved.run.model)]
    assert measured[0] == measured[1]
    assert set(measured[0]) == {"test/student_accuracy", "test/teacher_accuracy"}
    with torch.no_grad():
        images, _ = loader.dataset.tensors  # type: ignore[attr-defined]
        hits = (saved.run.model.eval().student(images).logits.argmax(1) == labels).float().mean()
    assert measured[0]["test/student_accuracy"] == pytest.approx(float(hits))


def test_a_checkpoint_loads_without_unpickling_and_without_the_teacher(saved: Saved) -> None:
    content = torch.load(saved.path, weights_only=True)
    parts = {name.split(".")[0] for name in content["state_dict"]}
    assert parts == {"student", "inversion", "alignment"}
    assert content["condkd"]["teacher"] == saved.run.model.teacher.fingerprint()
    assert content["global_step"] == 3 * toy.CADENCE.length


def test_the_module_refuses_to_load_another_teachers_checkpoint(saved: Saved) -> None:
    teacher = toy.observed(toy.network("another"))
    with pytest.raises(ValueError, match="another teacher"):
        CondKD.load_from_checkpoint(
            saved.path,
            teacher=teacher,
            student=toy.network("student 1"),
            inversion=toy.fast(),
            alignment=FeatureAlignment(),
        )


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_run(precision: str) -> None:
    run = toy.fit(toy.condkd(alignment=FeatureAlignment()), precision=precision)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert {value.dtype for value in run.model.state_dict().values() if value.is_floating_point()} == {dtype}
    assert all(map(math.isfinite, run.metrics.values()))
    assert not torch.equal(run.bank.images, toy.fit(toy.condkd(alignment=FeatureAlignment())).bank.images)


class Counter(L.Callback):
    """Global step after every unit."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize("alignment", [None, FeatureAlignment()], ids=["plain", "aligned"])
def test_a_step_is_a_unit(alignment: FeatureAlignment | None) -> None:
    """Whatever the number of optimizers that it steps, and in idle units too."""
    counter = Counter()
    run = toy.fit(toy.condkd(alignment=copy.deepcopy(alignment)), callbacks=[counter])
    assert counter.steps == list(range(1, 3 * toy.CADENCE.length + 1))
    assert run.trainer.global_step == 3 * toy.CADENCE.length


def test_max_steps_stops_exactly() -> None:
    run = toy.fit(toy.condkd(alignment=FeatureAlignment()), max_epochs=-1, max_steps=19)
    assert run.trainer.global_step == 19
    assert len(run.bank) == 24  # the third block was cut short


def test_checkpoints_by_steps_are_exact(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    toy.fit(
        toy.condkd(alignment=FeatureAlignment()),
        max_epochs=2,
        callbacks=[saving],
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    assert {path.stem for path in tmp_path.glob("*.ckpt")} == {f"step={step}" for step in (3, 6, 9, 12, 15)}


class StopError(Exception):
    """What stands in for a mishap."""


class Stop(L.Callback):
    """Breaks off after a unit and its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise StopError


def _cut_and_resumed(model: Callable[[], CondKD], precision: str, step: int, folder: Path) -> toy.Run:
    """Stop after a unit, and go on with new objects from the checkpoint."""
    keep = ModelCheckpoint(folder, filename="cut", every_n_train_steps=step)
    saved = {"callbacks": [keep, Stop(step)], "enable_checkpointing": True, "default_root_dir": folder}
    with pytest.raises(StopError):
        toy.fit(model(), precision=precision, **saved)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8)
    resumed, trainer = model(), toy.silent_trainer(max_epochs=3, precision=precision, default_root_dir=folder)
    trainer.fit(resumed, data, ckpt_path=folder / "cut.ckpt")
    return toy.Run(resumed, data.transfer_set.bank, trainer)


def _aligned() -> CondKD:
    return toy.condkd(alignment=FeatureAlignment())


def _aligned_in_double() -> CondKD:
    networks = {"teacher": toy.observed(toy.network("teacher").double()), "student": toy.network("student 1").double()}
    inversion = toy.fast(generator=GeneratorSettings(network=toy.small_generator().double()))
    return toy.condkd(inversion, FeatureAlignment(), **networks)


@pytest.mark.parametrize(
    ("model", "precision", "step"),
    [(_aligned, "32-true", 11), (_aligned, "32-true", 14), (_aligned_in_double, "64-true", 11)],
)
def test_a_run_stopped_in_mid_round_resumes_to_the_bit(
    model: Callable[[], CondKD], precision: str, step: int, tmp_path: Path
) -> None:
    """Unit 11 is in the middle of a synthesis block, 14 of a distillation block."""
    whole = toy.fit(model(), precision=precision)
    assert toy.same(whole.state(), _cut_and_resumed(model, precision, step, tmp_path).state())


def test_a_teacher_that_the_precision_converted_is_known_again(tmp_path: Path) -> None:
    """Lightning loads a checkpoint before it converts the networks, so the weights are rounded once on the way."""
    whole, resumed = toy.fit(_aligned(), precision="64-true"), _cut_and_resumed(_aligned, "64-true", 11, tmp_path)
    assert resumed.trainer.global_step == 24
    states = [toy.student_of(run) for run in (whole, resumed)]
    assert all(torch.allclose(states[0][name].double(), states[1][name].double(), atol=1e-3) for name in states[0])


@pytest.mark.parametrize("bounds", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 24}], ids=["rounds", "steps"])
def test_the_learning_rate_falls_along_the_rounds_of_the_student(bounds: dict[str, int]) -> None:
    """Half a cosine from 0.2 to 0.0002 over two rounds after one of warm-up, however the end is given."""

    class Rates(L.Callback):
        rates: list[float]

        def on_train_epoch_end(self, trainer: L.Trainer, *_: object) -> None:
            self.rates = [*getattr(self, "rates", []), trainer.optimizers[0].param_groups[0]["lr"]]

    rates = Rates()
    toy.fit(toy.condkd(), callbacks=[rates], **bounds)
    assert rates.rates == pytest.approx([0.2, 0.1001, 0.0002])


def test_blocks_repeat_within_a_round() -> None:
    run = toy.fit(toy.condkd(toy.fast(cadence=Cadence(2, 2, repeats=3))), max_epochs=2)
    assert run.trainer.global_step == 24
    assert run.bank.rounds.tolist() == [0] * 36 + [1] * 36
    assert int(run.model.inversion.moving_statistics.updates) == 6


def test_a_run_without_end_needs_a_schedule_of_its_own() -> None:
    with pytest.raises(ValueError, match="set max_epochs or max_steps, or student_scheduler"):
        toy.fit(toy.condkd(), max_epochs=-1)


def test_a_second_fit_takes_its_own_transfer_set() -> None:
    model = toy.condkd()
    first, second = toy.fit(model), toy.fit(model, condensed=toy.condensed_set("others"), max_epochs=2)
    assert len(first.bank) == 36
    assert len(second.bank) == 24
    assert model.transfer_set is not None
    assert torch.equal(model.transfer_set.condensed.images, toy.condensed_set("others").images)


def test_a_loaded_module_is_held_to_its_task(saved: Saved) -> None:
    loaded = CondKD.load_from_checkpoint(
        saved.path,
        teacher=toy.observed(toy.network("teacher")),
        student=toy.network("student 1"),
        inversion=toy.fast(),
        alignment=FeatureAlignment(),
    )
    with pytest.raises(ValueError, match=r"the module was built for TaskSpec.*make a new module"):
        toy.fit(loaded, condensed=toy.condensed_set(shape=(1, 16, 16)))
    assert toy.fit(loaded, max_epochs=2).trainer.global_step == 2 * toy.CADENCE.length
