"""Checkpoints by the clock: within a long round, none where others come often, and a run goes on from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_condkd.callbacks import RunSummary, TimedCheckpoint
from lightning_condkd.callbacks import timed_checkpoint as timed
from lightning_condkd.cli import main
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.inversion import DeepInversion
from lightning_condkd.rounds import Cadence
from tests.conftest import ROOT
from tests.helpers import toy
from tests.helpers.callbacks import DieAt
from tests.helpers.small_runs import classification, condensation, distillation, experts, generative

QUICK = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), "--trainer.enable_progress_bar=false"]
ROUND = Cadence(synthesis_steps=6, distill_steps=2, warmup_rounds=1)
SIZES = [
    "--trainer.max_epochs=2",
    "--model.init_args.inversion.init_args.cadence.distill_steps=4",
    "--model.init_args.inversion.init_args.batch_size=32",
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The time, in minutes, stands until it is moved."""
    now = [0.0]
    monkeypatch.setattr(timed.time, "monotonic", lambda: now[0])

    def move(minutes: float) -> None:
        now[0] += 60 * minutes

    return move


class Steps(L.Callback):
    """Every step takes so many minutes; what is saved is noted."""

    def __init__(self, clock: Callable[[float], None], minutes: float) -> None:
        self.clock, self.minutes, self.saved = clock, minutes, list[int]()

    def on_train_batch_start(self, *_: object) -> None:
        self.clock(self.minutes)

    def on_save_checkpoint(self, trainer: L.Trainer, *_: object) -> None:
        self.saved.append(trainer.global_step)


def deep_inversion(folder: Path, *callbacks: L.Callback, resumed: Path | None = None, **options: Any) -> toy.Run:
    data = CondensedDataModule(toy.condensed_set(), batch_size=8)
    model = toy.condkd(DeepInversion(cadence=ROUND, batch_size=12))
    options = {"max_epochs": 3, "enable_checkpointing": True, "default_root_dir": folder, **options}
    trainer = toy.silent_trainer(callbacks=list(callbacks), **options)
    trainer.fit(model, data, ckpt_path=resumed)
    return toy.Run(model, data.transfer_set.bank, trainer)


def test_a_run_that_dies_within_a_round_goes_on_from_there_to_the_bit(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    whole = deep_inversion(tmp_path / "whole")
    noted = Steps(clock, minutes=4)
    with pytest.raises(ValueError, match="the cause"):
        deep_inversion(tmp_path, TimedCheckpoint(), noted, DieAt(0, 14, "raise"))
    assert noted.saved == [3, 6, 8, 11, 14]  # each synthesis step is one; the end of a round counts as a checkpoint
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["by_time.ckpt", "epoch=0-step=8.ckpt"]
    assert torch.load(folder / "by_time.ckpt", weights_only=True)["global_step"] == 14
    again = deep_inversion(tmp_path, resumed=folder / "by_time.ckpt")
    assert toy.same(whole.state(), again.state())


def test_short_rounds_have_none(tmp_path: Path, clock: Callable[[float], None]) -> None:
    noted = Steps(clock, minutes=1)
    deep_inversion(tmp_path, TimedCheckpoint(), noted)
    assert noted.saved == [8, 16, 24]
    assert not list(tmp_path.rglob("by_time*"))


@pytest.mark.parametrize("options", [{"enable_checkpointing": False}, {"fast_dev_run": 3}, {"barebones": True}])
def test_a_run_without_checkpoints_has_none(options: dict[str, Any], tmp_path: Path) -> None:
    if "barebones" in options:
        model, data = toy.condkd(), CondensedDataModule(toy.condensed_set(), batch_size=8)
        L.Trainer(barebones=True, max_epochs=2, accelerator="cpu", callbacks=[TimedCheckpoint(1e-9)]).fit(model, data)
    else:
        deep_inversion(tmp_path, TimedCheckpoint(1e-9), **options)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_runs_that_share_a_folder_keep_their_own(tmp_path: Path) -> None:
    for name in ("by_time.ckpt", "by_time-v1.ckpt"):
        deep_inversion(tmp_path / name, ModelCheckpoint(tmp_path / "shared"), TimedCheckpoint(1e-9))
        assert (tmp_path / "shared" / name).is_file()
    assert len(list((tmp_path / "shared").glob("by_time*"))) == 2


def test_weights_alone_are_no_checkpoint_to_go_on_from(tmp_path: Path, clock: Callable[[float], None]) -> None:
    often = ModelCheckpoint(tmp_path, save_weights_only=True, every_n_train_steps=1)
    noted = Steps(clock, minutes=4)
    deep_inversion(tmp_path, often, TimedCheckpoint(), noted)
    assert noted.saved == [3, 6, 9, 12, 15, 18, 21, 24]


@pytest.mark.parametrize("make", [classification, condensation, distillation, experts, generative])
def test_every_module(make: Callable[..., Any], tmp_path: Path) -> None:
    module, data, _ = make(tmp_path)
    trainer = toy.silent_trainer(
        max_epochs=2, enable_checkpointing=True, default_root_dir=tmp_path, callbacks=[TimedCheckpoint(1e-9)]
    )
    trainer.fit(module, datamodule=data)
    assert len(list(tmp_path.rglob("by_time.ckpt"))) == 1


def test_an_age_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="minutes: expected a positive number, got 0"):
        TimedCheckpoint(minutes=0)


@pytest.mark.parametrize(
    "more",
    [
        ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_last=true"],
        ["--trainer.callbacks+=TimedCheckpoint", "--trainer.callbacks.minutes=12"],
    ],
    ids=["beside the user's checkpoints", "the user's own"],
)
def test_the_command_line_goes_on_from_it(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]
) -> None:
    command = [*QUICK, *SIZES, f"--trainer.default_root_dir={tmp_path}", *more]
    ages: list[float] = []
    dying = DieAt(0, 16, "raise")
    with monkeypatch.context() as patch:
        start = TimedCheckpoint.on_train_start
        patch.setattr(TimedCheckpoint, "on_train_start", lambda self, *a: ages.append(self.minutes) or start(self, *a))
        patch.setattr(TimedCheckpoint, "on_train_batch_start", lambda *_: clock(4))
        patch.setattr(RunSummary, "on_train_batch_end", lambda _, trainer, *rest: dying.on_train_batch_end(trainer))
        with pytest.raises(ValueError, match="the cause"):
            main(command)
    assert ages == [12.0 if "minutes" in more[-1] else 10.0]
    main([*command, "--ckpt_path=last"])
    resumed = yaml.safe_load((tmp_path / "lightning_logs" / "version_1" / "config.yaml").read_text())["ckpt_path"]
    assert Path(resumed).name == "by_time.ckpt"
    summary = json.loads((tmp_path / "lightning_logs" / "version_1" / "summary.json").read_text())
    assert (summary["rounds"], summary["images_synthesized"]) == (2, 64)


@pytest.mark.parametrize("what", [["enable_checkpointing=false"], ["barebones=true", "logger=false"]])
def test_the_command_line_without_checkpoints(what: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main([*QUICK[:-1], *SIZES, *(f"--trainer.{option}" for option in what)])
    assert not list(tmp_path.rglob("*.ckpt"))
