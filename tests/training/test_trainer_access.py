"""What modules and datamodules know of each other, also when a trainer is used again or they are the user's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.data import CondensedDataModule, ImageDataModule, TransferSet
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.data.loaders import DrawsByStep
from lightning_condkd.modules import Classification
from lightning_condkd.training.trainer_access import checkpoint_folder, datamodule_of, monitored_by, student_of
from tests.helpers import toy


class Images(ImageDataModule):
    """Images of the toy's three classes."""

    def load(self, train: bool) -> ImageSource:
        images = (255 * toy.condensed_set("real").images).to(torch.uint8)
        return ImageSource(images, toy.condensed_set().labels, ("a", "b", "c"))


class Named(TensorDataset):
    """Real images whose classes have names."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.classes = names
        super().__init__(torch.rand(6, *toy.SHAPE), torch.arange(6) % len(names))


class Owned(L.LightningDataModule):
    """A datamodule of the user's own with what the student learns from."""

    def __init__(self, transfer_set: TransferSet) -> None:
        super().__init__()
        self.transfer_set = transfer_set

    def train_dataloader(self) -> DataLoader[Any]:
        return CondensedDataModule.train_dataloader(self)  # type: ignore[arg-type]


def test_a_datamodule_of_an_earlier_call_is_forgotten() -> None:
    module = Classification(toy.observed(toy.network("teacher", num_classes=2)), seed=0)
    trainer, loader = toy.silent_trainer(max_epochs=1), DataLoader(Named(("x", "y")), batch_size=2)
    with pytest.raises(ValueError, match="the data has 3 classes, the network 2"):
        trainer.validate(module, Images(), verbose=False)
    assert isinstance(datamodule_of(trainer), Images)
    trainer.validate(module, loader, verbose=False)  # of two classes, which the module is for
    assert datamodule_of(trainer) is None


def test_condkd_takes_its_steps_from_any_datamodule_of_images() -> None:
    model = toy.condkd(transfer_set=TransferSet(toy.condensed_set(), batch_size=8))
    trainer = toy.silent_trainer(max_epochs=2)
    trainer.fit(model, Images())
    assert isinstance(model, DrawsByStep)
    assert trainer.global_step > 0
    assert "val/student_accuracy" in trainer.callback_metrics


def test_a_transfer_set_is_found_in_a_datamodule_of_the_users_own() -> None:
    data = Owned(TransferSet(toy.condensed_set(), batch_size=8))
    model = toy.condkd()
    toy.silent_trainer(max_epochs=2).fit(model, data)
    assert len(data.transfer_set.bank)
    assert model.transfer_set is data.transfer_set


def test_condensed_data_for_a_classifier_is_refused() -> None:
    module = Classification(toy.observed(toy.network("teacher")), seed=0)
    with pytest.raises(TypeError, match="is for CondKD, got Classification"):
        toy.silent_trainer(max_epochs=1).fit(module, CondensedDataModule(toy.condensed_set()))


def test_what_is_not_there_is_none() -> None:
    class Plain(L.LightningModule):
        pass

    class Student(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.student = nn.Linear(1, 1)

    model = Student()
    assert student_of(Plain()) is None
    assert student_of(model) is model.student
    assert (monitored_by(None), checkpoint_folder(None)) == (None, None)
    assert monitored_by(SimpleNamespace(monitor="val/x")) == "val/x"
    assert datamodule_of(toy.silent_trainer()) is None


def test_the_run_has_one_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from tests.helpers.small_runs import MODULES

    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    for name, make in MODULES.items():
        if name != "condkd":  # whose helper gives one
            assert make(tmp_path, seed=None)[0].seed == 11
        assert make(tmp_path)[0].state_key != "state"
    assert Images().seed == 11
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert Images().seed == 0
