"""Every module is held to what its checkpoint was made of, says what differs, and logs whole epochs."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.data import CondensedDataModule
from lightning_condkd.data.image_datamodules import ImageDataModule
from tests.helpers import toy
from tests.helpers.callbacks import SaveAt
from tests.helpers.small_runs import MODULES, EpochMeans, fit

ADAM = partial(torch.optim.Adam, lr=0.01)
STEPS = partial(StepLR, step_size=2)
MIDDLE = 5  # a step within an epoch of each of them


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, EpochMeans]]:
    """A checkpoint within an epoch of every module, and what the whole run logged."""
    made = {}
    for name, make in MODULES.items():
        folder, means = tmp_path_factory.mktemp(name), EpochMeans()
        fit(make(folder), folder, MIDDLE, callbacks=[means])
        made[name] = folder / f"{MIDDLE}.ckpt", means
    return made


@pytest.mark.parametrize("name", MODULES)
def test_the_same_run_resumes_without_a_word_and_logs_whole_epochs(
    name: str, runs: dict[str, tuple[Path, EpochMeans]], tmp_path: Path
) -> None:
    checkpoint, whole = runs[name]
    means = EpochMeans()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(MODULES[name](tmp_path), tmp_path, ckpt_path=checkpoint, callbacks=[means])
    said = [str(warning.message) for warning in caught]
    assert [text for text in said if "differs" in text or "not resumable" in text] == []
    assert means.by_epoch
    for epoch, values in means.by_epoch.items():
        assert values == pytest.approx(whole.by_epoch[epoch], rel=1e-6)


@pytest.mark.parametrize("name", MODULES)
def test_a_checkpoint_of_another_module_is_refused(
    name: str, runs: dict[str, tuple[Path, EpochMeans]], tmp_path: Path
) -> None:
    other = next(one for one in MODULES if one != name)
    module = MODULES[name](tmp_path)
    with pytest.raises(
        ValueError, match=f"expected a checkpoint of {type(module[0]).__name__}, got one of .*ckpt_path"
    ):
        fit(module, tmp_path, ckpt_path=runs[other][0])


@pytest.mark.parametrize(
    ("name", "changed", "match"),
    [
        ("condkd", {"student_optimizer": ADAM}, "student.class 'SGD', this one 'Adam': the saved state"),
        (
            "condkd",
            {"student_scheduler": partial(StepLR, step_size=2)},
            "scheduler.class 'RunCosine', this one 'StepLR'",
        ),
        ("classification", {"optimizer": ADAM}, "optimizer.class 'SGD', this one 'Adam': the saved state"),
        ("classification", {"scheduler": STEPS}, "'RunCosine', this one 'StepLR'"),
        ("classification", {"width": 8}, r"does not fit the module: it has network.\S+ \(4.*, here \(8.* and \d+ more"),
        ("distillation", {"student_optimizer": ADAM}, "optimizer.class 'SGD', this one 'Adam': the saved state"),
        ("distillation", {"student_scheduler": STEPS}, "'RunCosine', this one 'StepLR'"),
        ("distillation", {"width": 8}, r"does not fit the module: it has student.\S+ \(4.*, here \(8.* and \d+ more"),
        ("condensation", {"ipc": 2}, "ipc 1, this one 2: resume with as many"),
        ("condensation", {"steps_per_epoch": 4}, "steps_per_epoch 3, this one 4: .*number the steps"),
        ("generative", {"steps_per_epoch": 4}, "steps_per_epoch 3, this one 4: .*number the steps"),
        ("experts", {"epochs": 4}, "epochs 2, this one 4: .*number the experts"),
    ],
)
def test_what_cannot_change_within_a_run_is_refused(
    name: str, changed: dict[str, Any], match: str, runs: dict[str, tuple[Path, EpochMeans]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=match):
        fit(MODULES[name](tmp_path, **changed), tmp_path, ckpt_path=runs[name][0])


@pytest.mark.parametrize(
    ("name", "changed", "match"),
    [
        ("classification", {"label_smoothing": 0.1}, "label_smoothing 0.0, this one 0.1"),
        ("classification", {"augment": None}, "augment.class 'CropFlip', this one none"),
        ("distillation", {"use_labels": False}, "use_labels True, this one False"),
        ("distillation", {"augment": None}, "augment.padding 1, this one 4"),
        ("condensation", {"learning_rate": 0.5}, "learning_rate none, this one 0.5"),
        ("generative", {"gan_epochs": 2}, "gan_epochs 1, this one 2"),
        ("experts", {"learning_rate": 0.5}, "learning_rate 0.01, this one 0.5"),
    ],
)
def test_what_may_change_is_said(
    name: str, changed: dict[str, Any], match: str, runs: dict[str, tuple[Path, EpochMeans]], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=f"this run differs from the checkpoint's: .*{match}"):
        fit(MODULES[name](tmp_path, **changed), tmp_path, ckpt_path=runs[name][0])


@pytest.mark.parametrize("name", ["classification", "distillation", "condensation", "experts", "generative"])
def test_other_images_are_said(name: str, runs: dict[str, tuple[Path, EpochMeans]], tmp_path: Path) -> None:
    module, data, length = MODULES[name](tmp_path)
    assert isinstance(data, ImageDataModule)
    data.train_source = replace(data.train_source, images=255 - data.train_source.images)
    with pytest.warns(UserWarning, match=r"data '1297 images of 10 classes, sha256 .*', this one '1297 images"):
        fit((module, data, length), tmp_path, ckpt_path=runs[name][0])


def test_the_teacher_s_accuracy_is_logged_after_a_resume_too(tmp_path: Path) -> None:
    images = TensorDataset(torch.rand(6, *toy.SHAPE), torch.arange(6) % toy.CLASSES)
    data = {"batch_size": 8, "val_dataloaders": DataLoader(images, batch_size=6)}
    saving = SaveAt(20, tmp_path / "20.ckpt")
    whole, rest = EpochMeans(), EpochMeans()
    for ckpt_path, callbacks in ((None, [whole, saving]), (tmp_path / "20.ckpt", [rest])):
        trainer = toy.silent_trainer(max_epochs=4, callbacks=callbacks)
        trainer.fit(toy.condkd(), CondensedDataModule(toy.condensed_set(), **data), ckpt_path=ckpt_path)
    assert rest.by_epoch[3]["val/teacher_accuracy"] == whole.by_epoch[3]["val/teacher_accuracy"]
