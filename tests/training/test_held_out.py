"""What the student is measured on must go with the condensed set; labels are classes; the teacher stays frozen."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lightning_condkd.cli import main
from lightning_condkd.data import CondensedDataModule, CondensedInfo, CondensedSet, step_loader
from lightning_condkd.data.image_datamodules import DigitsDataModule, ImageDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.models import CifarResNet, DigitsNet, Observer
from lightning_condkd.modules import Classification, CondKD
from lightning_condkd.training.teacher_accuracy import remark_on_condensed
from tests.conftest import ROOT
from tests.helpers import toy

NAMES = ("cat", "dog", "T-shirt/top")
ANOTHER_ORDER = "in another order than those of the data: .* against .*give ImageFolderDataModule the set's order"
CHANCE = "close to chance"


class Real(ImageDataModule):
    """Random images of the toy task, three of each class."""

    def __init__(self, names: tuple[str, ...] = NAMES, shape: tuple[int, ...] = toy.SHAPE) -> None:
        super().__init__(batch_size=3)
        self.names, self.shape = names, shape

    def load(self, train: bool) -> ImageSource:
        labels = torch.arange(len(self.names)).repeat(3)
        images = torch.randint(256, (len(labels), *self.shape), dtype=torch.uint8)
        return ImageSource(images, labels, self.names)


def named(names: tuple[str, ...] | None = NAMES) -> CondensedSet:
    condensed = toy.condensed_set()
    return CondensedSet(condensed.images, condensed.labels, info=CondensedInfo(3, names))


def loader(images: Tensor, labels: Any, size: int = 3) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, labels), batch_size=size)


def run(stage: str, data: CondensedDataModule, model: CondKD | None = None, **trainer: Any) -> L.Trainer:
    trainer = {"num_sanity_val_steps": 0, "max_epochs": 2, **trainer}
    made = toy.silent_trainer(**trainer)
    getattr(made, stage)(toy.condkd() if model is None else model, datamodule=data)
    return made


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize(
    ("real", "match"),
    [
        (Real(("dog", "cat", "T-shirt/top")), ANOTHER_ORDER),
        (Real(("T-shirt-top", "CAT", "Dog")), ANOTHER_ORDER),
        (Real((*NAMES, "frog")), r"num_classes: the condensed set has 3, the data 4; .*class_names"),
        (Real(NAMES[:2]), r"num_classes: the condensed set has 3, the data 2; "),
        (
            Real(shape=(1, 16, 16)),
            r"image_shape: the condensed set has \(1, 8, 8\), the data \(1, 16, 16\).*image_size",
        ),
        (Real(shape=(3, 8, 8)), r"image_shape: the condensed set has \(1, 8, 8\), the data \(3, 8, 8\)"),
    ],
    ids=["order", "order by loose comparison", "more classes", "fewer classes", "size", "colour"],
)
def test_set_and_held_out_images_must_go_together(stage: str, real: Real, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        run(stage, CondensedDataModule(named(), batch_size=8, val_data=real))


def test_what_is_not_known_is_not_compared_and_other_names_are_doubted() -> None:
    other = Real(("bird", "frog", "dog"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run("validate", CondensedDataModule(named(None), batch_size=8, val_data=other))
        run("validate", CondensedDataModule(named(), batch_size=8, val_data=Real(("CAT", "dog", "T-shirt-top"))))
        assert not [one for one in said if "same order" in str(one.message)]
        run("validate", CondensedDataModule(named(), batch_size=8, val_data=other))
    assert [one for one in said if "calls its classes cat, dog, T-shirt/top, the data bird" in str(one.message)]


def test_images_that_are_not_measured_on_are_not_read() -> None:
    data = CondensedDataModule(named(), batch_size=8, val_data=Real(("dog", "cat", "T-shirt/top")))
    assert run("fit", data, limit_val_batches=0).global_step == 2 * toy.CADENCE.length


class Folder(Dataset[Any]):
    """As a dataset of torchvision, which names its classes."""

    def __init__(self, names: tuple[str, ...], target_transform: Callable[[int], int] | None = None) -> None:
        self.classes, self.target_transform = list(names), target_transform

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.rand(toy.SHAPE), row % 3


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, [0, 1, 2])], ids=["whole", "subset"])
def test_loaders_of_datasets_that_name_their_classes(stage: str, wrap: Callable[[Any], Any]) -> None:
    def data(dataset: Folder) -> CondensedDataModule:
        loaders = DataLoader(wrap(dataset), batch_size=3)
        return CondensedDataModule(named(), batch_size=8, val_dataloaders=loaders)

    with pytest.raises(ValueError, match=ANOTHER_ORDER):
        run(stage, data(Folder(("dog", "cat", "T-shirt/top"))), num_sanity_val_steps=2)
    run(stage, data(Folder(NAMES)))
    run(stage, data(Folder(("dog", "cat", "T-shirt/top"), target_transform=lambda label: label)))


def test_the_order_is_compared_without_sanity_steps_before_a_step_is_taken() -> None:
    loaders = DataLoader(Folder(("dog", "cat", "T-shirt/top")), batch_size=3)
    model, trainer = toy.condkd(), toy.silent_trainer(max_epochs=2, num_sanity_val_steps=0)
    with pytest.raises(ValueError, match=ANOTHER_ORDER):
        trainer.fit(model, CondensedDataModule(named(), batch_size=8, val_dataloaders=loaders))
    assert trainer.global_step == 0


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("held_out", [("dog", "cat", "T-shirt/top"), NAMES[:2]], ids=["order", "fewer classes"])
def test_a_classifier_is_measured_on_the_classes_that_it_learns(held_out: tuple[str, ...], sanity: int) -> None:
    def classify(names: tuple[str, ...], **more: Any) -> L.Trainer:
        trainer = toy.silent_trainer(max_epochs=1, num_sanity_val_steps=sanity, **more)
        loaders = (DataLoader(Folder(each), batch_size=3) for each in (NAMES, names))
        trainer.fit(Classification(toy.observed(toy.network("plain"))), *loaders)
        return trainer

    with pytest.raises(ValueError, match="the same label means another class"):
        classify(held_out)
    assert classify(NAMES).global_step == classify(held_out, limit_val_batches=0).global_step == 2
    with pytest.warns(UserWarning, match="the held-out ones 3 a, b, c: are they in the same order"):
        classify(("a", "b", "c"))


def test_nothing_to_measure_on_is_nothing_to_look_at() -> None:
    assert run("fit", CondensedDataModule(named(), batch_size=8)).global_step == 2 * toy.CADENCE.length
    trainer = toy.silent_trainer(max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(Classification(toy.observed(toy.network("plain"))), DataLoader(Folder(NAMES), batch_size=3))
    assert trainer.global_step == 2


IMAGES = torch.rand(6, *toy.SHAPE, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(6) % 3
WRONG = [
    (IMAGES, torch.nn.functional.one_hot(CLASSES), r"int64 \(3, 3\): turn rows of K into classes by labels.argmax"),
    (IMAGES, CLASSES.view(6, 1), r"int64 \(3, 1\): take labels.squeeze"),
    (IMAGES, CLASSES.float(), r"float32 \(3,\): convert whole numbers with labels.long"),
    (IMAGES, CLASSES + 1, "from 0 to 2, got 1 to 3: they seem to count from 1, so subtract 1"),
    (IMAGES, CLASSES + 3, "from 0 to 2, got 3 to 5: the networks have 3 classes"),
    (IMAGES, CLASSES - 1, "from 0 to 2, got -1 to 1"),
    (IMAGES, CLASSES.view(2, 3).repeat(3, 1).to(torch.uint8), "argmax"),
    (255 * IMAGES, CLASSES, "divide them by 255, or give them as uint8"),
    ((255 * IMAGES).long(), CLASSES, "got torch.int64: convert 0 to 255 with .byte"),
    (IMAGES[:, 0], CLASSES, r"tensor \(N, C, H, W\), got \(3, 8, 8\)"),
    (IMAGES.expand(-1, 3, -1, -1), CLASSES, r"images of \(1, 8, 8\) .* as in training, got \(3, 8, 8\)"),
    (torch.rand(6, 1, 16, 16), CLASSES, r"images of \(1, 8, 8\) .*, got \(1, 16, 16\): resize them"),
]


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize(("images", "labels", "match"), WRONG)
def test_batches_that_are_no_images_with_classes_are_refused_before_training(
    images: Tensor, labels: Tensor, match: str, sanity: int
) -> None:
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=loader(images, labels))
    trainer = toy.silent_trainer(max_epochs=2, num_sanity_val_steps=sanity)
    with pytest.raises(ValueError, match=match):
        trainer.fit(toy.condkd(), data)
    assert trainer.global_step == 0


@pytest.mark.parametrize(("images", "labels", "match"), WRONG[:10])
def test_a_classifier_takes_no_such_batches_either(images: Tensor, labels: Tensor, match: str) -> None:
    for stage in ("fit", "validate", "test"):
        module = Classification(toy.observed(toy.network("plain")))
        with pytest.raises(ValueError, match=match):
            getattr(toy.silent_trainer(max_epochs=1), stage)(module, loader(images, labels))


def test_labels_of_any_integer_type_are_the_same_classes() -> None:
    accuracies = set()
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.int16):
        data = CondensedDataModule(named(), batch_size=8, val_dataloaders=loader(IMAGES, CLASSES.to(dtype)))
        trainer = run("validate", data)
        accuracies.add(float(trainer.callback_metrics["val/teacher_accuracy"]))
        module = Classification(toy.observed(toy.network("plain")))
        toy.silent_trainer(max_epochs=1).fit(module, loader(IMAGES, CLASSES.to(dtype)))
    assert len(accuracies) == 1
    assert 0 < accuracies.pop() < 1


def test_the_look_at_a_first_batch_leaves_the_run_as_it_is() -> None:
    """A loader takes a number from the global stream; the trainer's own pass would do so at the end of the round."""
    torch.manual_seed(3)
    trainer = toy.silent_trainer(max_epochs=2, num_sanity_val_steps=0)
    states = []

    class Look(L.Callback):
        def on_train_start(self, *_: object) -> None:
            states.append(torch.random.get_rng_state())

    before = torch.random.get_rng_state()
    trainer.callbacks.append(Look())
    data = CondensedDataModule(named(), batch_size=8, val_dataloaders=loader(IMAGES, CLASSES))
    trainer.fit(toy.condkd(), data)
    assert torch.equal(states[0], before)


# --- the teacher ------------------------------------------------------------------------------------------------


class Train(L.Callback):
    """Puts a teacher back to train mode at one hook."""

    def __init__(self, hook: str, whole: bool) -> None:
        self.whole = whole
        setattr(self, hook, self._act)

    def _act(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        network = module.teacher.network
        (network if self.whole else network.features[1]).train()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "hook", ["on_train_start", "on_train_batch_start", "on_validation_start", "on_train_epoch_end"]
)
@pytest.mark.parametrize("whole", [True, False], ids=["network", "one layer"])
def test_a_teacher_that_is_put_to_train_ends_the_run(hook: str, whole: bool) -> None:
    data = CondensedDataModule(named(), batch_size=8, val_dataloaders=loader(IMAGES, CLASSES))
    model = toy.condkd()
    with pytest.raises(RuntimeError, match=r"DigitsNet is frozen, but .* was put in train mode"):
        run("fit", data, model, callbacks=[Train(hook, whole)])


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_teacher_put_to_train_before_the_run_does_not_move(stage: str) -> None:
    model = toy.condkd()
    before = model.teacher.fingerprint()
    model.teacher.network.train()
    run(stage, CondensedDataModule(named(), batch_size=8, val_dataloaders=loader(IMAGES, CLASSES)), model)
    assert model.teacher.fingerprint() == before
    assert not model.teacher.network.training


def said_of(teacher: Observer, condensed: CondensedSet) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        remark_on_condensed(teacher, condensed)
    return [str(one.message) for one in said]


def relabelled(condensed: CondensedSet) -> CondensedSet:
    return CondensedSet(condensed.images, (condensed.labels + 1) % condensed.num_classes)


def test_a_teacher_that_fails_the_condensed_images_is_said_loudly() -> None:
    condensed = CondensedSet.load("package:digits-dm-1ipc.safetensors")
    given = {"mean": (0.3059,), "std": (0.3754,)}
    teacher = Observer(DigitsNet(), **given, weights="package:digits-teacher.safetensors").freeze()
    assert said_of(teacher, condensed) == []
    (said,) = said_of(teacher, relabelled(condensed))
    assert "right on 0.0 % of 10 condensed images, which is close to chance (10.0 %)" in said
    assert "another order of the classes, a wrong mean or std of the teacher, weights that were not loaded" in said


@pytest.mark.real_data
def test_the_public_set_and_teacher_raise_no_alarm(real_data: Path) -> None:
    weights = real_data / "resnet20-cifar10.safetensors"
    teacher = Observer(CifarResNet(20), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), weights=weights).freeze()
    condensed = CondensedSet.load(real_data / "res_DM_CIFAR10_ConvNet_10ipc.pt")
    assert said_of(teacher, condensed) == []
    assert said_of(teacher, relabelled(condensed))


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_teacher_that_fails_the_real_images_is_said_loudly(stage: str) -> None:
    teacher = Observer(DigitsNet(), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors")
    images, labels = DigitsDataModule().val_source.images[:60], DigitsDataModule().val_source.labels[:60]
    condensed = CondensedSet.load("package:digits-dm-1ipc.safetensors")
    for shift, expected in ((0, False), (1, True)):
        student = toy.network("student 1", num_classes=10)
        model = toy.condkd(teacher=teacher, student=student)
        data = CondensedDataModule(condensed, batch_size=8, val_dataloaders=loader(images, (labels + shift) % 10, 20))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run(stage, data, model)
        assert any(f"images, which is {CHANCE}" in str(one.message) for one in said) is expected


def test_the_command_line_refuses_a_set_whose_classes_are_in_another_order(tmp_path: Path) -> None:
    condensed = CondensedSet.load("package:digits-dm-1ipc.safetensors")
    names = tuple(str((label + 1) % 10) for label in range(10))
    file = tmp_path / "set.safetensors"
    CondensedSet(condensed.images, condensed.labels, info=CondensedInfo(10, names)).save(file)
    quick = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    with pytest.raises(ValueError, match=ANOTHER_ORDER):
        main([*quick, f"--data.init_args.condensed={file}"])


def test_the_command_line_takes_class_names_and_compares_shapes(tmp_path: Path) -> None:
    for name in map(str, range(10)):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "test" / name / "image.png")
    quick = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    folder = ["--data.init_args.val_data=ImageFolderDataModule", f"--data.init_args.val_data.init_args.root={tmp_path}"]
    names = "--data.init_args.val_data.init_args.class_names="
    with pytest.raises(ValueError, match=r"image_shape: the condensed set has \(1, 8, 8\), the data \(3, 8, 8\)"):
        main([*quick, *folder, f"{names}['0','1','2','3','4','5','6','7','8','9']"])
    with pytest.raises(ValueError, match="num_classes: the condensed set has 10, the data 11"):
        main([*quick, *folder, f"{names}['0','1','2','3','4','5','6','7','8','9','ten']"])
    with pytest.raises(ValueError, match="folders 2, 3, 4, 5 and 4 more are not among class_names"):
        main([*quick, *folder, f"{names}['0','1']"])


def test_a_step_loader_with_validation_loaders_is_checked_too() -> None:
    transfer = CondensedDataModule(named(), batch_size=8).transfer_set
    model = toy.condkd(transfer_set=transfer)
    real = Real(("dog", "cat", "T-shirt/top")).val_dataloader()
    trainer = toy.silent_trainer(max_epochs=2)
    with pytest.raises(ValueError, match=ANOTHER_ORDER):
        trainer.fit(model, step_loader(toy.CADENCE.length), real)
    assert trainer.global_step == 0
