"""A run that diverges ends with an error, before anything of it is measured, stored or saved."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.alignment import FeatureAlignment, ProjectionDiscriminator
from lightning_condkd.callbacks import CondensedOnlyBaseline, RunSummary
from lightning_condkd.cli import main
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.inversion import GeneratorSettings, NoInversion
from lightning_condkd.modules import CondKD
from lightning_condkd.rounds import Cadence
from lightning_condkd.training.divergence import STREAK, LossWatch
from tests.conftest import ROOT
from tests.helpers import contract, toy

HUGE = partial(SGD, lr=1e10, momentum=0.9)


def images() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.rand(6, *toy.SHAPE), torch.arange(6) % 3), batch_size=3)


def diverge(model: CondKD, folder: Path, match: str, *callbacks: L.Callback, **arguments: Any) -> L.Trainer:
    """Assert that a run ends with an error, and that nothing on disk is of the time after."""
    data = CondensedDataModule(
        toy.condensed_set(), batch_size=8, mix=contract.mix(model.inversion), val_dataloaders=images()
    )
    saving = ModelCheckpoint(folder, save_top_k=-1, every_n_epochs=1, save_on_exception=True)
    trainer = toy.silent_trainer(
        **{"max_epochs": 3, "enable_checkpointing": True, "default_root_dir": folder, **arguments},
        callbacks=[saving, *callbacks],
    )
    with pytest.raises(FloatingPointError, match=match):
        trainer.fit(model, data)
    for path in folder.rglob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(value.isfinite().all()) for name, value in state.items() if not name.endswith("kept_loss"))
    assert bool(torch.isfinite(data.transfer_set.bank.images.float()).all())
    return trainer


def aligned(name: str, **arguments: Any) -> CondKD:
    return toy.condkd(contract.make(name), FeatureAlignment(ProjectionDiscriminator((16,)), **arguments))


@pytest.mark.parametrize("name", contract.methods())
def test_a_student_that_diverges_ends_the_run_in_its_round(name: str, tmp_path: Path) -> None:
    """Round 0 has no student steps."""
    model = toy.condkd(contract.make(name), student_optimizer=HUGE)
    match = r"the student \(optimizer 'student'\) diverged in round 2.*Lower the learning rate of student_optimizer"
    trainer = diverge(model, tmp_path, match)
    [saved] = tmp_path.rglob("*.ckpt")
    assert torch.load(saved, weights_only=True)["epoch"] == 0
    assert trainer.current_epoch == 1


@pytest.mark.parametrize("name", [name for name in contract.methods() if hasattr(contract.make(name), "generator_lr")])
def test_a_generator_that_diverges_ends_the_run_by_its_name(name: str, tmp_path: Path) -> None:
    model = toy.condkd(contract.make(name, generator=GeneratorSettings(lr=1e30)))
    diverge(model, tmp_path, r"optimizer 'synthesis'\) diverged in round 1.*Lower inversion.generator.lr \(1e\+30\)")
    assert not len(model.transfer_set.bank)  # type: ignore[union-attr]
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("name", contract.methods())
def test_a_discriminator_that_diverges_ends_the_run_by_its_name(name: str, tmp_path: Path) -> None:
    match = r"optimizer 'discriminator'\) diverged in round 1.*Lower alignment.learning_rate \(1e\+30\)"
    diverge(aligned(name, learning_rate=1e30), tmp_path, match + ".*No checkpoint of this run was written before")


def test_a_replay_memory_that_diverges_ends_the_run_by_its_name(tmp_path: Path) -> None:
    model = toy.condkd(contract.make("PREDFKD", memory=contract.Memory(1 / 3, batch_size=6, width=2, lr=1e30)))
    diverge(model, tmp_path, r"optimizer 'replay'\) diverged in round 2.*Lower inversion.memory.lr")


class Spoil(L.Callback):
    """Breaks a tensor after a step of the run, as that step might have done."""

    def __init__(self, name: str, step: int, value: float = torch.nan) -> None:
        self.name, self.step, self.value = name, step, value

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.apply(pl_module)

    def apply(self, module: L.LightningModule) -> None:
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        tensors[self.name].data.view(-1)[0] = self.value


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("student.network.linear.bias", "student"),
        ("student.network.features.1.running_var", "student"),
        ("inversion.meta.project.bias", "meta"),
        ("inversion.moving_statistics.mean", "synthesis"),
    ],
)
def test_the_last_step_of_the_last_round_counts(name: str, optimizer: str, tmp_path: Path) -> None:
    """No loss comes after it."""
    last = Spoil(name, 3 * toy.CADENCE.length)
    diverge(toy.condkd(), tmp_path, rf"optimizer '{optimizer}'\) diverged in round 3: NaN.*{name}", last)
    assert not list(tmp_path.rglob(f"*step={3 * toy.CADENCE.length}.ckpt"))


@pytest.mark.parametrize("arguments", [{"max_steps": 14}, {"max_steps": 16, "val_check_interval": 6}])
def test_a_run_that_is_cut_or_measured_in_mid_round_is_looked_at(arguments: dict[str, Any], tmp_path: Path) -> None:
    diverge(toy.condkd(), tmp_path, "diverged in round 2", Spoil("student.network.linear.bias", 14), **arguments)


def test_a_checkpoint_by_steps_is_not_written_of_a_diverged_student(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "steps", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    diverge(toy.condkd(), tmp_path, "diverged in round 2", Spoil("student.network.linear.bias", 14), saving)
    assert {path.stem for path in (tmp_path / "steps").iterdir()} >= {"step=12", "step=13"}
    assert not (tmp_path / "steps" / "step=14.ckpt").exists()


def test_the_message_says_where_the_last_good_state_is_and_a_run_resumes_from_it(tmp_path: Path) -> None:
    trainer = diverge(toy.condkd(), tmp_path, r"last good state on disk is .*epoch=1-step=16.ckpt", Spoil(LATE, 24))
    saved = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    data = CondensedDataModule(toy.condensed_set(), batch_size=8)
    resumed = toy.silent_trainer(max_epochs=3, default_root_dir=tmp_path)
    resumed.fit(toy.condkd(), data, ckpt_path=saved)
    assert resumed.global_step == 24


LATE = "student.network.linear.bias"


def test_a_checkpoint_of_a_diverged_run_is_not_resumed_nor_exported(tmp_path: Path) -> None:
    saving = {"callbacks": [ModelCheckpoint(tmp_path)], "enable_checkpointing": True, "default_root_dir": tmp_path}
    toy.fit(toy.condkd(), max_epochs=2, **saving)
    [path] = tmp_path.glob("*.ckpt")
    content = torch.load(path, weights_only=True)
    content["state_dict"][LATE][0] = torch.nan
    torch.save(content, path)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8)
    with pytest.raises(ValueError, match=f"the checkpoint holds NaN or infinity in {LATE}"):
        toy.silent_trainer(max_epochs=2).fit(toy.condkd(), data, ckpt_path=path)
    with pytest.raises(ValueError, match=r"holds NaN or infinity in linear.bias"):
        main(["export", str(path), str(tmp_path / "student.pt")])
    assert not (tmp_path / "student.pt").exists()


def test_a_student_of_huge_weights_has_no_accuracy(tmp_path: Path) -> None:
    """They are finite, and so is every loss before."""
    last = Spoil("student.network.linear.weight", 24, 3e38)
    more = Spoil("student.network.features.1.weight", 24, 3e38)
    diverge(toy.condkd(), tmp_path, "logits of the student on the real images are NaN", last, more)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_notice_it_too(precision: str, tmp_path: Path) -> None:
    model = toy.condkd(NoInversion(cadence=Cadence(0, 80)), student_optimizer=partial(SGD, lr=1e30, momentum=0.9))
    match = (
        "set --trainer.precision 32-true in place of bf16" if precision == "bf16-mixed" else "student_gradient_clip. "
    )
    diverge(model, tmp_path, match, precision=precision)


def fp16(scale: float = 2.0**40) -> MixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, backoff_factor=2.0**-2, growth_interval=10_000)
    return MixedPrecision("16-mixed", "cpu", scaler)  # type: ignore[arg-type]


class Overflowing(nn.Module):
    """A network that overflows in its first few steps, as in half precision."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.inner, self.steps = toy.network("student 1", norm="one_group"), steps
        self.linear = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.inner(images))
        self.steps -= int(self.training)
        return logits * torch.inf if self.training and self.steps >= 0 else logits


def test_skipped_steps_of_a_scaler_do_not_end_a_run() -> None:
    run = toy.fit(toy.condkd(student=Overflowing(STREAK - 1)), max_epochs=5, plugins=[fp16()])
    assert run.trainer.global_step == 5 * toy.CADENCE.length
    assert all(bool(value.isfinite().all()) for value in toy.student_of(run).values())


def test_statistics_that_a_skipped_step_leaves_in_the_copy_do_not_end_a_run(tmp_path: Path) -> None:
    """The next block refills them; without a scaler a step that breaks them has moved the weights too."""
    name = "inversion.inner.norm.running_var"
    run = toy.fit(toy.condkd(), callbacks=[Spoil(name, 18)], plugins=[fp16(2.0)])
    assert run.trainer.global_step == 3 * toy.CADENCE.length
    diverge(toy.condkd(), tmp_path, rf"optimizer 'synthesis'\) diverged in round 3.*{name}", Spoil(name, 18))


def test_a_precision_that_cannot_hold_the_teacher_is_refused() -> None:
    network = toy.network("teacher")
    network.features[1].running_var[0] = 1e6  # type: ignore[index]
    with pytest.raises(ValueError, match=r"the teacher holds .*running_var: --trainer.precision 16-true cannot hold"):
        toy.fit(toy.condkd(teacher=toy.observed(network)), precision="16-true")


def test_a_scaler_that_skips_for_ever_ends_the_run(tmp_path: Path) -> None:
    """Weights and statistics stay finite: every step is skipped."""
    model = toy.condkd(student=Overflowing(1000))
    diverge(model, tmp_path, r"optimizer 'student'\) diverged in round 3: the loss", plugins=[fp16()], max_epochs=9)


def test_the_losses_of_a_scaler_are_followed_over_rounds() -> None:
    watch = LossWatch()
    for step in range(STREAK - 1):
        watch.add("student", step, {"loss": torch.tensor(torch.inf)})
        watch.add("synthesis", step, {"loss": torch.tensor(1.0)})
        assert bool(watch.finite(scaled=True))
        watch.clear(scaled=True)
    watch.add("student", STREAK, {"loss": torch.tensor(torch.inf)})
    assert not bool(watch.finite(scaled=True))
    seen = watch.first_broken(scaled=True)
    assert seen is not None
    assert (seen.optimizer, seen.step) == ("student", 0)


def test_a_baseline_that_diverges_has_no_accuracy(tmp_path: Path) -> None:
    baseline = CondensedOnlyBaseline()
    model = toy.condkd(student_optimizer=HUGE)
    diverge(model, tmp_path, "condensed-only baseline diverged in round 2.*student_optimizer", baseline, RunSummary())
    assert baseline.accuracy is None
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize("flags", [[], ["--trainer.callbacks=null"]], ids=["baseline", "student"])
def test_a_diverged_run_of_the_command_line_ends_with_an_error(flags: list[str], tmp_path: Path) -> None:
    arguments = [
        "fit",
        f"--config={ROOT / 'configs' / 'quickstart.yaml'}",
        "--trainer.max_epochs=2",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--model.init_args.inversion.init_args.batch_size=32",
        "--model.init_args.student_optimizer.init_args.lr=1e30",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    with pytest.raises(FloatingPointError, match=r"lower|Lower"):
        main([*arguments, *flags])
    assert not list(tmp_path.rglob("summary.json"))
