"""What a Lightning user puts into a trainer: it works, or is refused before the first step with what to do instead."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks as lc
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd import entry
from lightning_condkd.callbacks import CondensedOnlyBaseline, RunSummary
from lightning_condkd.data import CondensedDataModule
from tests.conftest import ROOT
from tests.helpers import small_runs as tasks
from tests.helpers import toy
from tests.helpers.callbacks import SaveAt

Options = Callable[[Path], dict[str, Any]]
Made = tuple[Any, L.LightningDataModule]
ACCURACY = {
    "condkd": "val/student_accuracy",
    "distillation": "val/student_accuracy",
    "classification": "val/accuracy",
    "experts": "val/accuracy",
}


def make(kind: str, folder: Path) -> Made:
    torch.manual_seed(0)
    module, data, _ = getattr(tasks, kind)(folder)
    if kind == "condkd":
        images, labels = torch.rand(9, *toy.SHAPE), torch.arange(9) % toy.CLASSES
        loader = DataLoader(TensorDataset(images, labels), batch_size=4)
        data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=loader)
    return module, data


def trained(module: Any) -> dict[str, torch.Tensor]:
    """The network that a user takes home."""
    part = getattr(module, "student", None) or getattr(module, "network", None) or module
    return {name: value.detach().clone() for name, value in part.state_dict().items()}


def fit(kind: str, folder: Path, **options: Any) -> tuple[Any, L.Trainer]:
    module, data = make(kind, folder)
    options = {"max_epochs": 2, "default_root_dir": folder, **options}
    trainer = L.Trainer(accelerator="cpu", **options) if options.get("barebones") else toy.silent_trainer(**options)
    trainer.fit(module, datamodule=data)
    return module, trainer


def with_callbacks(*given: Callable[[], L.Callback], **more: Any) -> Options:
    return lambda folder: {"callbacks": [RunSummary(), *(make() for make in given)], **more}


def logged(*given: Callable[[], L.Callback]) -> Options:
    """A CSVLogger writes where our table goes by default."""
    return lambda folder: {
        "logger": CSVLogger(folder),
        "log_every_n_steps": 2,
        "callbacks": [RunSummary(), *(make() for make in given)],
    }


SAME: dict[str, Options] = {
    "rate monitor": logged(lc.LearningRateMonitor),
    "device monitor": logged(lambda: lc.DeviceStatsMonitor(cpu_stats=False)),
    "throughput": logged(lambda: lc.ThroughputMonitor(lambda batch: 8, window_size=4)),
    "TensorBoard": lambda folder: {"logger": TensorBoardLogger(folder), "callbacks": [RunSummary()]},
    "rich": with_callbacks(lc.RichProgressBar, lc.RichModelSummary, enable_progress_bar=True),
    "lambda": with_callbacks(lambda: lc.LambdaCallback(on_train_start=lambda *_: None)),
    "timer": with_callbacks(lambda: lc.Timer("00:01:00:00")),
    "max_time": lambda _: {"max_time": "00:01:00:00"},
    "min_epochs": lambda _: {"min_epochs": 2, "min_steps": 2},
    "anomaly": lambda _: {"detect_anomaly": True},
    "simple profiler": lambda _: {"profiler": "simple"},
    "advanced profiler": lambda _: {"profiler": "advanced"},
    "no_grad": lambda _: {"inference_mode": False},
    "reload": lambda _: {"reload_dataloaders_every_n_epochs": 1},
    "barebones": lambda _: {"barebones": True},
    "sanity": lambda _: {"num_sanity_val_steps": -1},
    "sampler": lambda _: {"use_distributed_sampler": False},
    "sync_batchnorm": lambda _: {"sync_batchnorm": True},
    "benchmark": lambda _: {"benchmark": True, "deterministic": True},
    "limit_val": lambda _: {"limit_val_batches": 1},
    "val_check": lambda _: {"val_check_interval": 1},
    "val by steps": lambda _: {"val_check_interval": 2, "check_val_every_n_epoch": None},
    "val every second": lambda _: {"check_val_every_n_epoch": 2},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("plain")
    return {kind: trained(fit(kind, folder / kind)[0]) for kind in ("condkd", "classification")}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("kind", ["condkd", "classification"])
def test_what_only_looks_leaves_the_training_as_it_is_to_the_bit(
    kind: str, name: str, plain: dict[str, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module, trainer = fit(kind, tmp_path, **SAME[name](tmp_path))
    assert toy.same(trained(module), plain[kind])
    assert (trainer.current_epoch, trainer.global_step) == (2, 16 if kind == "condkd" else 4)
    if name == "rate monitor":
        (table,) = tmp_path.rglob("metrics.csv")
        assert "lr-SGD" in table.read_text()
        name = "rounds.csv" if kind == "condkd" else "epochs.csv"
        assert [path.parent for path in tmp_path.rglob(name)] == [table.parent]


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["condkd", "classification", "distillation", "condensation", "generative", "experts"])
def test_precisions_train(kind: str, precision: Any, tmp_path: Path) -> None:
    before = trained(make(kind, tmp_path)[0])
    module, _ = fit(kind, tmp_path, precision=precision)
    after = trained(module)
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert any(
        name not in before or not torch.equal(value.double(), before[name].double()) for name, value in after.items()
    )


@pytest.mark.parametrize("kind", ACCURACY)
def test_early_stopping_stops(kind: str, tmp_path: Path) -> None:
    stopping = lc.EarlyStopping(ACCURACY[kind], mode="max", patience=1, min_delta=2.0)
    _, trainer = fit(kind, tmp_path, max_epochs=10, callbacks=[stopping])
    assert trainer.current_epoch == 2
    assert stopping.stopped_epoch == 1


@pytest.mark.parametrize("kind", ["condkd", "classification", "distillation", "condensation", "generative"])
def test_a_run_is_ended_by_time(kind: str, tmp_path: Path) -> None:
    _, trainer = fit(kind, tmp_path, max_epochs=10_000, max_time={"seconds": 0.2})
    assert 0 < trainer.current_epoch < 10_000


AVERAGES = "EMAWeightAveraging treats all networks .* leave it out"
TURNS = "cannot reach optimizers that take turns: leave it out"
MANUAL = ["condkd", "generative"]
OTHERS = ["condkd", "distillation", "condensation", "generative", "experts"]
ALL = [*OTHERS, "classification"]
REFUSED: dict[str, tuple[list[str], Options, str]] = {
    "EMA": (OTHERS, with_callbacks(lc.EMAWeightAveraging), AVERAGES),
    "SWA": (OTHERS, with_callbacks(lambda: lc.StochasticWeightAveraging(0.01)), "StochasticWeightAveraging treats all"),
    "pruning": (OTHERS, with_callbacks(lambda: lc.ModelPruning("l1_unstructured")), "ModelPruning treats all networks"),
    "scheduled": (MANUAL, with_callbacks(lambda: lc.GradientAccumulationScheduler({1: 2})), TURNS),
    "scheduled SGD": (
        ["experts"],
        with_callbacks(lambda: lc.GradientAccumulationScheduler({1: 2})),
        "plain step of SGD",
    ),
    "accumulate": (MANUAL, lambda _: {"accumulate_grad_batches": 2}, f"{TURNS}, and raise the batch sizes"),
    "accumulate SGD": (["experts"], lambda _: {"accumulate_grad_batches": 2}, "plain step of SGD"),
    "clip": (["generative"], lambda _: {"gradient_clip_val": 0.5}, TURNS),
    "clip student": (["condkd"], lambda _: {"gradient_clip_val": 0.5}, f"{TURNS}, student_gradient_clip"),
    "clip SGD": (["experts"], lambda _: {"gradient_clip_val": 0.5}, "plain step of SGD"),
    "spikes": (MANUAL, with_callbacks(lc.SpikeDetection), "SpikeDetection looks for one loss"),
    "backbone": (ALL, with_callbacks(lc.BackboneFinetuning), "BackboneFinetuning needs a part of the name backbone"),
    "batch size": (ALL, with_callbacks(lc.BatchSizeFinder), "BatchSizeFinder finds no batch size"),
    "rate": (ALL, with_callbacks(lc.LearningRateFinder), "LearningRateFinder finds no one learning rate"),
    "rate monitor": (ALL, with_callbacks(lc.LearningRateMonitor), "LearningRateMonitor writes to a logger"),
    "device monitor": (["condkd"], with_callbacks(lc.DeviceStatsMonitor), "DeviceStatsMonitor writes to a logger"),
    "overfit": (ALL, lambda _: {"overfit_batches": 2}, "overfit_batches takes the first batches .* leave it out"),
    "no batches": (ALL, lambda _: {"limit_train_batches": 0}, "limit_train_batches=0 trains nothing"),
    "no epochs": (ALL, lambda _: {"max_epochs": 0}, "max_epochs=0 trains nothing: raise it, or call validate or test"),
    "no steps": (ALL, lambda _: {"max_steps": 0}, "max_steps=0 trains nothing"),
    "rounds cut": (["condkd"], lambda _: {"limit_train_batches": 2}, "would cut the 8 steps of a round"),
    "rounds cut in part": (["condkd"], lambda _: {"limit_train_batches": 0.5}, "would cut the 8 steps of a round"),
    "endless": (
        ["condkd", "classification", "distillation"],
        lambda _: {"max_epochs": -1},
        "set (--trainer.)?max_epochs",
    ),
    "endless experts": (["experts"], lambda _: {"max_epochs": -1}, "max_epochs=-1: expected a multiple of 2"),
    "by time": (
        MANUAL,
        lambda folder: {
            "callbacks": [lc.ModelCheckpoint(folder, train_time_interval={"minutes": 1})],  # type: ignore[arg-type]
            "enable_checkpointing": True,
        },
        r"TimedCheckpoint\(minutes=...\) in its place",
    ),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (kinds, *_) in REFUSED.items() for kind in kinds])
def test_what_cannot_be_done_is_refused_before_the_first_step(name: str, kind: str, tmp_path: Path) -> None:
    _, options, match = REFUSED[name]
    given = options(tmp_path)
    baseline = CondensedOnlyBaseline()
    given = {**given, "callbacks": [*given.get("callbacks", []), baseline]}
    module, data = make(kind, tmp_path)
    before = trained(module)
    trainer = toy.silent_trainer(**{"max_epochs": 2, "default_root_dir": tmp_path, **given})
    with pytest.raises(ValueError, match=match):
        trainer.fit(module, datamodule=data)
    assert trainer.global_step == 0
    assert baseline.accuracy is None
    assert all(torch.equal(value, trained(module)[key]) for key, value in before.items())


@pytest.mark.parametrize("name", ["EMA", "no batches", "clip student", "by time"])
def test_to_measure_asks_for_none_of_it(name: str, tmp_path: Path) -> None:
    trainer = toy.silent_trainer(default_root_dir=tmp_path, **REFUSED[name][1](tmp_path))
    module, data = make("condkd", tmp_path)
    trainer.validate(module, datamodule=data, verbose=False)
    assert "val/student_accuracy" in trainer.callback_metrics


def test_accumulated_and_clipped_classifiers_are_trained(tmp_path: Path) -> None:
    _, trainer = fit("classification", tmp_path, accumulate_grad_batches=2, gradient_clip_val=0.5)
    assert trainer.global_step == 2
    _, trainer = fit("classification", tmp_path, callbacks=[lc.GradientAccumulationScheduler({1: 2})])
    assert trainer.global_step == 3


class Weights(L.Callback):
    """The weights after every step, and what the validation measured with."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self.measured: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: object) -> None:
        self.steps.append(trained(pl_module))

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: object) -> None:
        if not trainer.sanity_checking:
            self.measured.append(trained(pl_module))


def test_an_averaged_classifier_is_the_average_to_the_last_file(tmp_path: Path) -> None:
    module, data = make("classification", tmp_path)
    module.output = tmp_path / "network.safetensors"
    weights, saving = Weights(), SaveAt(3, tmp_path / "middle.ckpt")
    trainer = toy.silent_trainer(max_epochs=2, callbacks=[lc.EMAWeightAveraging(decay=0.5), weights, saving])
    trainer.fit(module, datamodule=data)
    average = weights.steps[0]["network.linear.weight"]  # as it is after the first step
    for step in weights.steps[1:]:
        average = 0.5 * average + 0.5 * step["network.linear.weight"]
    assert not torch.allclose(average, weights.steps[-1]["network.linear.weight"])
    for found in (
        trained(module)["network.linear.weight"],
        weights.measured[-1]["network.linear.weight"],
        load_file(module.output)["linear.weight"],
    ):
        torch.testing.assert_close(found, average)

    again, data = make("classification", tmp_path)
    trainer = toy.silent_trainer(max_epochs=2, callbacks=[lc.EMAWeightAveraging(decay=0.5)])
    trainer.fit(again, datamodule=data, ckpt_path=tmp_path / "middle.ckpt")
    assert toy.same(trained(again), trained(module))
    loaded = type(module).load_from_checkpoint(
        tmp_path / "middle.ckpt", network=make("classification", tmp_path)[0].network
    )
    assert not toy.same(trained(loaded), weights.steps[2])


def test_a_classifier_of_stochastic_weight_averaging_is_the_mean_of_its_epochs(tmp_path: Path) -> None:
    weights, averaging = Weights(), lc.StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=1)
    module, _ = fit("classification", tmp_path, max_epochs=4, callbacks=[averaging, weights])
    ends = [step["network.linear.weight"] for step in weights.steps[1::2]]  # Lightning takes them as the next begins
    torch.testing.assert_close(trained(module)["network.linear.weight"], torch.stack(ends[:3]).mean(0))


def test_a_monitor_of_an_unknown_name_is_doubted_before_the_first_step(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match="EarlyStopping monitors 'val_acc', which CondKD does not log .*begin with val/"
    ):
        fit("condkd", tmp_path, callbacks=[lc.EarlyStopping("val_acc", strict=False)])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not log")
        fit("condkd", tmp_path, callbacks=[lc.EarlyStopping("bank/images", patience=9)])


def test_a_trainer_that_goes_on_without_its_checkpoint_says_what_is_lost(tmp_path: Path) -> None:
    module, data = make("condkd", tmp_path)
    trainer = toy.silent_trainer(max_epochs=2, default_root_dir=tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    trainer.fit_loop.max_epochs = 3
    with pytest.warns(
        UserWarning, match="continues at step 16 .* but with new optimizers and schedules: pass the ckpt_path"
    ):
        trainer.fit(module, datamodule=data)
    whole = trained(fit("condkd", tmp_path, max_epochs=3)[0])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*new optimizers")
        trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "end.ckpt")
    assert (trainer.global_step, trainer.current_epoch) == (24, 3)
    assert whole.keys() == trained(module).keys()


@pytest.mark.parametrize("options", [{"max_epochs": 2}, {"max_epochs": 3, "max_steps": 16}])
def test_a_run_that_is_at_its_end_stays_as_it_is(options: dict[str, int], tmp_path: Path) -> None:
    module, trainer = fit("condkd", tmp_path, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    again, data = make("condkd", tmp_path)
    further = toy.silent_trainer(default_root_dir=tmp_path, **options)
    further.fit(again, datamodule=data, ckpt_path=tmp_path / "end.ckpt")
    assert further.global_step == 16
    assert toy.same(trained(again), trained(module))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--trainer.callbacks+=EMAWeightAveraging"], "error: CondKD: EMAWeightAveraging treats all networks"),
        (["--trainer.accumulate_grad_batches=2"], "error: CondKD: accumulate_grad_batches cannot reach"),
        (
            ["--trainer.callbacks+=ModelCheckpoint", "--trainer.enable_checkpointing=false"],
            "error: Trainer was configured with `enable_checkpointing=False` but found",
        ),
    ],
)
def test_the_command_line_says_it_in_one_line(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        "fit",
        "--config",
        str(ROOT / "configs" / "quickstart.yaml"),
        f"--trainer.default_root_dir={tmp_path}",
        *flags,
    ]
    monkeypatch.setattr("sys.argv", ["lightning-condkd", *line])
    monkeypatch.setattr(entry, "bound_termination", lambda: None)
    with pytest.raises(SystemExit) as end:
        entry.run_command(sys.argv[1:])
    assert end.value.code == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", ALL)
def test_every_module_says_what_it_logs(kind: str, tmp_path: Path) -> None:
    module, trainer = fit(kind, tmp_path)
    assert trainer.callback_metrics
    assert all(name.startswith(module.metrics) for name in trainer.callback_metrics)
