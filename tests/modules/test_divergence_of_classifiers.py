"""Classifiers and experts that diverge end their run, and leave no file of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import SGD

from lightning_condkd.cli import main
from lightning_condkd.condensation.expert_files import snapshot_path
from lightning_condkd.data.image_datamodules import DigitsDataModule
from lightning_condkd.models.weights import read_state_dict
from tests.conftest import ROOT
from tests.modules import test_classification, test_experts

HUGE = partial(SGD, lr=1e30)


def diverge(module: L.LightningModule, data: L.LightningDataModule, folder: Path, match: str, **more: Any) -> None:
    saving = ModelCheckpoint(folder, save_top_k=-1, save_on_exception=True, every_n_epochs=1)
    arguments = {"callbacks": [saving, *more.pop("callbacks", [])], "enable_checkpointing": True, "max_epochs": 4}
    with pytest.raises(FloatingPointError, match=match):
        test_classification.trainer(folder, **{**arguments, **more}).fit(module, data)
    for path in folder.rglob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(value.isfinite().all()) for value in state.values())


class Late(L.Callback):
    """Raises the learning rate after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.optimizers[0].param_groups[0]["lr"] = 1e30


@pytest.mark.parametrize("output", [None, "teacher.safetensors"])
@pytest.mark.parametrize("limit_val_batches", [0, 1.0], ids=["unmeasured", "measured"])
def test_a_classifier_that_diverges_ends_the_run(output: str | None, limit_val_batches: float, tmp_path: Path) -> None:
    module = test_classification.classifier(
        output=output and tmp_path / output, optimizer=partial(SGD, lr=0.1), scheduler=Constant
    )
    match = r"the network diverged in epoch 3: the loss.*Lower the learning rate of optimizer. The last good .*epoch=1"
    data = DigitsDataModule(batch_size=256)
    diverge(module, data, tmp_path, match, limit_val_batches=limit_val_batches, callbacks=[Late(2)])
    assert len(list(tmp_path.rglob("*.ckpt"))) == 2
    assert not list(tmp_path.glob("*.safetensors"))


Constant = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)


class SpoilLast(L.Callback):
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.is_last_batch and trainer.current_epoch == 3:
            next(pl_module.parameters()).data[0] = torch.nan


@pytest.mark.parametrize("limit_val_batches", [0, 1.0], ids=["unmeasured", "measured"])
def test_the_last_step_of_a_classifier_counts(limit_val_batches: float, tmp_path: Path) -> None:
    module = test_classification.classifier(output=tmp_path / "teacher.safetensors")
    match = r"epoch 4: NaN or infinity in network.features.0.weight.*epoch=2"
    data = DigitsDataModule(batch_size=256)
    diverge(module, data, tmp_path, match, callbacks=[SpoilLast()], limit_val_batches=limit_val_batches)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_broken_classifier_is_neither_trained_measured_nor_exported(tmp_path: Path) -> None:
    module = test_classification.classifier()
    module.network.network.linear.bias.data[0] = torch.inf
    trainer, data = test_classification.trainer(tmp_path), DigitsDataModule(batch_size=256)
    for call in (trainer.fit, trainer.validate, trainer.test):
        with pytest.raises(ValueError, match=r"holds NaN or infinity in network.linear.bias"):
            call(module, datamodule=data)
    with pytest.raises(ValueError, match=r"network.linear.bias: it has diverged, nothing was written"):
        module.export(tmp_path / "weights.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_classifier_does_not_resume_from_a_diverged_checkpoint(tmp_path: Path) -> None:
    saving, data = ModelCheckpoint(tmp_path), DigitsDataModule(batch_size=256)
    trainer = test_classification.trainer(tmp_path, callbacks=[saving], enable_checkpointing=True, max_epochs=1)
    trainer.fit(test_classification.classifier(), data)
    content = torch.load(saving.best_model_path, weights_only=True)
    content["state_dict"]["network.network.features.1.running_var"][0] = torch.inf
    torch.save(content, saving.best_model_path)
    with pytest.raises(ValueError, match=r"checkpoint holds NaN or infinity in network.network.features.1.running_var"):
        test_classification.trainer(tmp_path).fit(
            test_classification.classifier(), data, ckpt_path=saving.best_model_path
        )


def test_an_expert_that_diverges_leaves_its_good_snapshots(tmp_path: Path) -> None:
    module = test_experts.experts(tmp_path)
    match = r"expert 1, trained for 1 epochs that are in .*experts, diverged in epoch 4.*Lower learning_rate \(0.1\)"
    diverge(module, test_experts.Few(4, seed=0), tmp_path, match, callbacks=[Late(3)])
    paths = [snapshot_path(module.output, expert, epoch) for expert, epoch in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))]
    assert sorted(module.output.iterdir()) == paths
    assert all(bool(value.isfinite().all()) for path in paths for value in read_state_dict(path).values())


def test_an_expert_that_diverges_at_once_leaves_its_start(tmp_path: Path) -> None:
    module = test_experts.experts(tmp_path, learning_rate=1e30)
    match = r"expert 0, trained for 0 epochs.*Lower learning_rate \(1e\+30\).*No checkpoint"
    diverge(module, test_experts.Few(4, seed=0), tmp_path, match)
    assert len(list(module.output.iterdir())) == 1


def test_a_diverged_teacher_of_the_command_line_ends_with_an_error(tmp_path: Path) -> None:
    arguments = [
        "fit",
        f"--config={ROOT / 'configs' / 'digits' / 'teacher.yaml'}",
        "--trainer.max_epochs=2",
        "--trainer.enable_progress_bar=false",
        "--model.init_args.optimizer.class_path=torch.optim.SGD",
        "--model.init_args.optimizer.init_args.lr=1e30",
        f"--model.init_args.output={tmp_path / 'teacher.safetensors'}",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    with pytest.raises(FloatingPointError, match="the network diverged in epoch 1"):
        main(arguments)
    assert not list(tmp_path.rglob("*.safetensors"))
