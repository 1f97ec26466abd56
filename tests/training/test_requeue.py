"""SLURM's signal in the middle of a step, against the run that had none."""

from __future__ import annotations

import inspect
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_condkd import modules as package
from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.modules import CondKD, Distillation
from lightning_condkd.modules.classification import Classification
from lightning_condkd.modules.condensation import Condensation
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.modules.generative_condensation import GenerativeCondensation
from lightning_condkd.training.outputs import CheckedOutputs
from lightning_condkd.training.requeue import RequeueBetweenSteps
from tests.helpers import toy

STEPS = toy.CADENCE.length
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "distill",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a job; the file in which a stand-in of scontrol writes what it was asked."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    asked, command = tmp_path / "asked", tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    return asked


def aligned() -> CondKD:
    return toy.condkd(alignment=FeatureAlignment())


def with_signal(module: CondKD, step: int) -> CondKD:
    """Send the signal after the first optimizer of a step has moved, or where nothing has."""
    original: Callable[..., Any] = module.manual_backward
    sent: list[int] = []

    def backward(loss: torch.Tensor, *arguments: Any, **keywords: Any) -> None:
        original(loss, *arguments, **keywords)
        if module.trainer.global_step == step + 1 and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGUSR1)

    module.manual_backward = backward  # type: ignore[method-assign]
    return module


def fit(module: L.LightningModule, folder: Path, **arguments: Any) -> toy.Run:
    return toy.fit(module, default_root_dir=folder, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [0, 3, 9, 12, 15, 23])
def test_a_requeued_run_is_the_run_that_was_left_alone(step: int, tmp_path: Path, slurm: Path) -> None:
    """First, in the middle and last of a synthesis block, of a distillation block, of a round and of the run."""
    whole = fit(aligned(), tmp_path / "whole")
    before = signal.getsignal(signal.SIGUSR1)
    interrupted = fit(with_signal(aligned(), step), tmp_path / "run")
    assert toy.same(interrupted.state(), whole.state())
    assert slurm.read_text().splitlines() == ["requeue 17"]
    assert signal.getsignal(signal.SIGUSR1) == before
    assert torch.load(tmp_path / "run" / "hpc_ckpt_1.ckpt", weights_only=True)["global_step"] == step + 1
    resumed = fit(aligned(), tmp_path / "run")  # Lightning finds the checkpoint by itself
    assert resumed.trainer.ckpt_path == str(tmp_path / "run" / "hpc_ckpt_1.ckpt")
    assert toy.same(resumed.state(), whole.state())
    assert resumed.trainer.global_step == whole.trainer.global_step


def test_a_signal_in_a_validation_is_taken_at_the_next_step(tmp_path: Path, slurm: Path) -> None:
    class InValidation(L.Callback):
        def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if not trainer.sanity_checking and trainer.current_epoch in (0, 2):
                os.kill(os.getpid(), signal.SIGUSR1)

    images = torch.utils.data.TensorDataset(torch.rand(6, *toy.SHAPE), torch.arange(6) % toy.CLASSES)
    loader = torch.utils.data.DataLoader(images, batch_size=6)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=loader)
    trainer = toy.silent_trainer(max_epochs=3, default_root_dir=tmp_path, callbacks=[InValidation()])
    trainer.fit(aligned(), data)
    checkpoints = [*tmp_path.glob("hpc_ckpt_*.ckpt")]  # the signal after the last step asks for nothing
    assert [torch.load(path, weights_only=True)["global_step"] for path in checkpoints] == [STEPS + 1]
    assert slurm.read_text().splitlines() == ["requeue 17"]


@pytest.mark.parametrize(
    ("hook", "saved"),
    [
        ("on_fit_start", [1]),
        ("on_sanity_check_start", [1]),
        ("on_train_start", [1]),
        ("on_train_end", []),
        ("on_fit_end", []),
    ],
)
def test_a_signal_before_or_after_training_waits_for_a_step(
    hook: str, saved: list[int], tmp_path: Path, slurm: Path
) -> None:
    callback = L.Callback()
    setattr(callback, hook, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    images = torch.utils.data.TensorDataset(torch.rand(6, *toy.SHAPE), torch.arange(6) % toy.CLASSES)
    loader = torch.utils.data.DataLoader(images, batch_size=6)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=loader)
    arguments: dict[str, Any] = {"max_epochs": 2, "default_root_dir": tmp_path, "num_sanity_val_steps": 1}
    toy.silent_trainer(callbacks=[callback], **arguments).fit(aligned(), data)
    checkpoints = [*tmp_path.glob("hpc_ckpt_*.ckpt")]
    assert [torch.load(path, weights_only=True)["global_step"] for path in checkpoints] == saved
    assert slurm.exists() == bool(saved)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


class KilledError(BaseException):
    pass


def test_a_checkpoint_that_a_kill_cuts_off_is_not_taken(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KilledError

    whole = fit(aligned(), tmp_path / "whole")
    fit(with_signal(aligned(), 3), tmp_path / "run", max_epochs=2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KilledError):
            fit(with_signal(aligned(), 12), tmp_path / "run")
    left = [path for path in (tmp_path / "run").iterdir() if path.suffix == ".tmp"]
    assert len(left) == 1  # Lightning would count a name with hpc_ckpt_ in it
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    resumed = fit(aligned(), tmp_path / "run")
    assert resumed.trainer.ckpt_path == str(tmp_path / "run" / "hpc_ckpt_1.ckpt")
    assert toy.same(resumed.state(), whole.state())


def test_a_handler_of_the_users_is_left_alone(tmp_path: Path, slurm: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        fit(with_signal(aligned(), 3), tmp_path, max_epochs=2)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]
    assert not slurm.exists()


def test_every_module_takes_the_signal_between_steps_and_writes_whole_checkpoints() -> None:
    modules = [CondKD, Distillation, Classification, Condensation, ExpertTrajectories, GenerativeCondensation]
    known = {
        name for name, kind in vars(package).items() if inspect.isclass(kind) and issubclass(kind, L.LightningModule)
    }
    assert {kind.__name__ for kind in modules} >= known
    for kind in modules:
        bare = kind.__new__(kind)
        bare._trainer = None
        assert [type(callback) for callback in bare.configure_callbacks()] == [RequeueBetweenSteps, CheckedOutputs]


@pytest.mark.parametrize(("restarts", "stage", "said"), [("0", "fit", 1), ("1", "fit", 0), ("1", "validate", 1)])
def test_a_requeue_s_checkpoint_that_is_found_is_said(
    restarts: str, stage: str, said: int, tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning takes it in whatever is run in that folder later, also where nothing was requeued."""
    fit(with_signal(aligned(), 12), tmp_path / "run")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if stage == "fit":
            fit(aligned(), tmp_path / "run")
        else:
            loader = torch.utils.data.DataLoader(
                torch.utils.data.TensorDataset(torch.rand(3, *toy.SHAPE), torch.arange(3))
            )
            toy.silent_trainer(default_root_dir=tmp_path / "run").validate(aligned(), loader, verbose=False)
    assert sum("which a requeued run has left there" in str(one.message) for one in caught) == said
