"""Several validation or test loaders: the first has the plain names, and everything that goes by one goes by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.callbacks import PhaseProgressBar, RunSummary, SyntheticImages
from lightning_condkd.callbacks.condensed_only import CondensedOnlyBaseline
from lightning_condkd.data import CondensedDataModule, DigitsDataModule
from tests.helpers import toy
from tests.helpers.small_runs import classification, experts

Loaders = tuple[DataLoader[Any], DataLoader[Any]]
COLLECTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "list": lambda a, b: [a, b],
    "dictionary": lambda a, b: {"clean": a, "noisy": b},
    "combined": lambda a, b: CombinedLoader({"clean": a, "noisy": b}, "sequential"),
}


def loader(images: Tensor, labels: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, labels), batch_size=4)


def toy_loaders() -> Loaders:
    sizes = (9, 7)
    first, second = (loader(torch.rand(size, *toy.SHAPE), torch.arange(size) % toy.CLASSES) for size in sizes)
    return first, second


def digits() -> Loaders:
    source = DigitsDataModule(300, seed=0).val_source
    return loader(source.images[:90], source.labels[:90]), loader(source.images[90:97], source.labels[90:97])


class Given(DigitsDataModule):
    """The digits to train on, and held-out loaders as a user's own datamodule returns them."""

    def __init__(self, loaders: Any) -> None:
        super().__init__(600, seed=0)
        self.loaders = loaders

    def val_dataloader(self) -> Any:
        return self.loaders

    def test_dataloader(self) -> Any:
        return self.loaders


def accuracy(network: nn.Module, held_out: DataLoader[Any]) -> float:
    images, labels = (torch.cat(parts) for parts in zip(*held_out, strict=True))
    images = images / 255 if images.dtype == torch.uint8 else images
    with torch.no_grad():
        return float((network.eval()(images).logits.argmax(1) == labels).float().mean())


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_condkd_with_the_callbacks_that_go_by_an_accuracy(kind: str, tmp_path: Path) -> None:
    first, second = toy_loaders()
    model = toy.condkd()
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=COLLECTIONS[kind](first, second))
    baseline, summary = CondensedOnlyBaseline(), RunSummary()
    best = ModelCheckpoint(tmp_path, monitor="val/student_accuracy", mode="max")
    stopping = EarlyStopping("val/student_accuracy/loader_1", mode="max", patience=9)
    callbacks = [baseline, summary, best, stopping, SyntheticImages(), PhaseProgressBar()]
    trainer = toy.silent_trainer(
        max_epochs=3,
        callbacks=callbacks,
        enable_checkpointing=True,
        enable_progress_bar=True,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, data)
    expected = accuracy(model.student, first), accuracy(model.student, second)
    assert expected[0] != expected[1]
    said = trainer.callback_metrics
    assert float(said["val/student_accuracy"]) == summary.last == pytest.approx(expected[0])
    assert float(stopping.best_score) >= float(said["val/student_accuracy/loader_1"])
    assert float(said["val/student_accuracy/loader_1"]) == pytest.approx(expected[1])
    assert float(best.best_model_score or 0) == summary.best
    teacher = accuracy(model.teacher, first), accuracy(model.teacher, second)
    assert model.teacher_accuracy == pytest.approx(teacher[0])

    alone = CondensedOnlyBaseline()
    toy.silent_trainer(max_epochs=3, callbacks=[alone]).fit(
        toy.condkd(), CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=first)
    )
    assert baseline.accuracy == alone.accuracy

    for stage in ("validate", "test"):
        getattr(trainer, stage)(model, datamodule=data, verbose=False)
        name = f"{'val' if stage == 'validate' else 'test'}/student_accuracy"
        found = float(trainer.callback_metrics[name]), float(trainer.callback_metrics[f"{name}/loader_1"])
        assert found == pytest.approx(expected)
    assert float(trainer.callback_metrics["test/teacher_accuracy/loader_1"]) == pytest.approx(teacher[1])


@pytest.mark.parametrize("kind", COLLECTIONS)
@pytest.mark.parametrize("make", [classification, experts])
def test_classifiers(make: Callable[..., Any], kind: str, tmp_path: Path) -> None:
    first, second = digits()
    module: Any = make(tmp_path)[0]
    data, trainer = Given(COLLECTIONS[kind](first, second)), toy.silent_trainer(max_epochs=2)
    trainer.fit(module, data)
    said = {name: float(value) for name, value in trainer.callback_metrics.items()}
    expected = accuracy(module.network, first), accuracy(module.network, second)
    assert (said["val/accuracy"], said["val/accuracy/loader_1"]) == pytest.approx(expected)
    assert ("val/loss/loader_1" in said) == ("val/loss" in said) == (make is classification)


def test_one_module_is_measured_fitted_and_measured_again(tmp_path: Path) -> None:
    """In the inference mode of a validation, and out of it."""
    module, data, _ = classification(tmp_path)
    trainer, found = toy.silent_trainer(max_epochs=2), []
    for stage in ("validate", "test", "fit", "validate", "test"):
        getattr(trainer, stage)(module, datamodule=data)
        known = trainer.callback_metrics.items()
        found.append({name.split("/")[1]: float(value) for name, value in known if "train" not in name})
    assert found[0] == found[1] != found[2] == found[3] == found[4]


def test_a_broken_off_validation_leaves_nothing_behind(tmp_path: Path) -> None:
    first, _ = toy_loaders()
    model = toy.condkd()
    broken = loader(torch.rand(8, *toy.SHAPE), torch.tensor([0, 1, 2, 0, 1, 2, 0, 7]))
    for held_out in (broken, first):
        data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=held_out)
        trainer = toy.silent_trainer()
        if held_out is broken:
            with pytest.raises(ValueError, match="label"):
                trainer.validate(model, datamodule=data, verbose=False)
    trainer.validate(model, datamodule=data, verbose=False)
    assert float(trainer.callback_metrics["val/student_accuracy"]) == pytest.approx(accuracy(model.student, first))


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("make", ["condkd", "classification", "experts"])
@pytest.mark.parametrize("sanity", [0, 2])
def test_batches_of_one_of_each_are_refused_before_training(make: str, stage: str, sanity: int, tmp_path: Path) -> None:
    if make == "condkd":
        module: L.LightningModule = toy.condkd()
        combined = CombinedLoader(list(toy_loaders()), "max_size")
        data: Any = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=combined)
    else:
        module = {"classification": classification, "experts": experts}[make](tmp_path)[0]
        data = Given(CombinedLoader(list(digits()), "min_size"))
    if (make, stage) == ("experts", "test"):
        return  # they have no test
    trainer = toy.silent_trainer(max_epochs=2, num_sanity_val_steps=sanity, callbacks=[CondensedOnlyBaseline()])
    with pytest.raises(ValueError, match=r"one after another, got a CombinedLoader of mode '.*mode='sequential'"):
        getattr(trainer, stage)(module, datamodule=data)
    assert trainer.global_step == 0
