"""Labels of Distillation: classes, unknown, soft or not used; and data that does not fit a loss."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.augment import CropFlip, Mixup
from lightning_condkd.data import DigitsDataModule
from lightning_condkd.distillation import (
    CRD,
    DKD,
    CrossEntropy,
    DistillationLoss,
    FitNet,
    GenDD,
    KLDistillation,
    NormDirection,
    WeightedLosses,
)
from lightning_condkd.modules import Distillation
from lightning_condkd.randomness import seeded_generator
from tests.helpers import toy

IMAGES = torch.rand(24, *toy.SHAPE, generator=seeded_generator(0, "images"))
LABELS = torch.arange(24) % toy.CLASSES
SMALL_GENDD = partial(GenDD, token_size=8, width=8, depth=1, batch_multiplier=1)


def module(loss: DistillationLoss, **arguments: Any) -> Distillation:
    teacher = toy.observed(toy.network("teacher"))
    given = {"augment": CropFlip(1, 0.0), "seed": 0, "image_shape": toy.SHAPE, **arguments}
    return Distillation(teacher, toy.network("student 1"), loss, **given)


def loader(labels: Tensor, images: Tensor = IMAGES) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(images, labels), batch_size=8)


def trained(loss: DistillationLoss, labels: Tensor, **arguments: Any) -> dict[str, Tensor]:
    model = module(loss, **arguments)
    toy.silent_trainer(max_epochs=2).fit(model, loader(labels))
    return dict(model.student.state_dict())


def predicted() -> Tensor:
    return toy.observed(toy.network("teacher")).freeze()(IMAGES).logits.argmax(1)


@pytest.mark.parametrize("loss", [CrossEntropy, DKD, NormDirection, SMALL_GENDD])
def test_labels_matter_unless_they_are_not_used(loss: Any) -> None:
    labels, others = LABELS, LABELS[torch.randperm(24, generator=seeded_generator(0, "others"))]
    assert not toy.same(trained(loss(), labels), trained(loss(), others))
    unlabeled = trained(loss(), labels, use_labels=False)
    assert toy.same(unlabeled, trained(loss(), others, use_labels=False))
    assert toy.same(unlabeled, trained(loss(), torch.full((24,), -1)))


def test_a_loss_without_labels_takes_them_or_none() -> None:
    assert toy.same(trained(KLDistillation(4.0), LABELS), trained(KLDistillation(4.0), torch.full((24,), -1)))


def test_unknown_labels_are_the_teacher_s_predictions() -> None:
    """Without an augmentation, so that the teacher predicts one class for each image in all epochs."""
    plain = {"augment": CropFlip(0, 0.0)}
    known = torch.where(torch.arange(24) % 2 == 0, LABELS, predicted())
    partly = torch.where(torch.arange(24) % 2 == 0, LABELS, -1)
    assert toy.same(trained(CrossEntropy(), partly, **plain), trained(CrossEntropy(), known, **plain))
    assert not toy.same(trained(CrossEntropy(), LABELS, **plain), trained(CrossEntropy(), known, **plain))


@pytest.mark.parametrize("mixing", [None, Mixup()])
def test_soft_labels_of_one_class_are_that_class(mixing: Mixup | None) -> None:
    soft = torch.nn.functional.one_hot(LABELS, toy.CLASSES).float()
    hard = trained(CrossEntropy(), LABELS, mixing=mixing)
    for name, value in trained(CrossEntropy(), soft, mixing=mixing).items():
        torch.testing.assert_close(value, hard[name], rtol=1e-4, atol=1e-6)
    mixed = trained(CrossEntropy(), 0.5 * soft + 0.5 * soft.roll(1, 0), mixing=mixing)
    assert any(not torch.allclose(value, hard[name], atol=1e-3) for name, value in mixed.items())


def fit(loss: DistillationLoss, data: Any, **arguments: Any) -> None:
    toy.silent_trainer(max_epochs=1).fit(module(loss, **arguments), data)


def both() -> DistillationLoss:
    return WeightedLosses({"ce": CrossEntropy(), "nd": NormDirection()})


@pytest.mark.parametrize("loss", [DKD, NormDirection, both])
def test_soft_labels_are_refused_by_a_loss_of_classes(loss: Any) -> None:
    with pytest.raises(ValueError, match=r"takes classes \(N,\), got probabilities \(8, 3\): give their argmax"):
        fit(loss(), loader(torch.full((24, toy.CLASSES), 1 / toy.CLASSES)))


def test_mixtures_of_soft_labels_are_classes_where_a_loss_needs_them() -> None:
    """The teacher's predictions of the mixtures, whatever the labels; the class means are those of the largest."""
    soft = torch.nn.functional.one_hot(LABELS, toy.CLASSES).float()
    hard = trained(NormDirection(), LABELS, mixing=Mixup())
    assert toy.same(trained(NormDirection(), soft, mixing=Mixup()), hard)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (LABELS + 1, "expected labels from 0 to 2, got 1 to 3: they seem to count from 1"),
        (LABELS.float(), r"expected labels as an integer tensor \(8,\), got float32"),
        (torch.rand(24, 4), r"expected labels as an integer tensor \(8,\), got float32 \(8, 4\)"),
    ],
)
def test_labels_of_other_classes_are_refused(labels: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit(KLDistillation(4.0), loader(labels))


def test_normalised_images_are_refused() -> None:
    with pytest.raises(ValueError, match="remove Normalize from the loader"):
        fit(KLDistillation(4.0), loader(LABELS, (IMAGES - 0.5) / 0.25))


def test_data_of_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="the data has 10 classes, the teacher 3: take the teacher of this data"):
        fit(KLDistillation(4.0), DigitsDataModule(64))


def test_images_of_another_shape_than_that_of_the_loss_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected real images of \(1, 10, 10\) .* as in training, got \(1, 8, 8\)"):
        fit(FitNet(), loader(LABELS), image_shape=(1, 10, 10))


def test_a_shape_beside_a_datamodule_must_be_its_own() -> None:
    from tests.modules.test_distillation import module as on_digits

    toy.silent_trainer(fast_dev_run=1).fit(on_digits(FitNet(), image_shape=[1, 8, 8]), DigitsDataModule(64))
    with pytest.raises(ValueError, match=r"image_shape is \(1, 9, 9\), but the images of the data have \(1, 8, 8\)"):
        toy.silent_trainer(fast_dev_run=1).fit(on_digits(FitNet(), image_shape=[1, 9, 9]), DigitsDataModule(64))


def test_a_loss_is_built_for_one_kind_of_data(tmp_path: Path) -> None:
    """A memory has a row for each image, so that of other data does not fit; in a loaded module too."""
    from tests.modules.test_distillation import module as on_digits

    first, others = DigitsDataModule(64), DigitsDataModule(64)
    source = others.load(train=True)
    others.train_source = replace(source, images=source.images[:900], labels=source.labels[:900])
    model, trainer = on_digits(CRD(negatives=8, size=8)), toy.silent_trainer(max_epochs=1, limit_train_batches=2)
    trainer.fit(model, first)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    parts = {name: getattr(model, name) for name in ("teacher", "student")}
    loaded = Distillation.load_from_checkpoint(
        tmp_path / "run.ckpt", distillation=CRD(negatives=8, size=8), augment=CropFlip(1, 0.0), **parts
    )
    match = r"the loss was built for 1297 images of \(1, 8, 8\), got data of 900 images of \(1, 8, 8\): make a new"
    for one in (model, loaded):
        toy.silent_trainer(max_epochs=1, limit_train_batches=1).fit(one, DigitsDataModule(64))
        with pytest.raises(ValueError, match=match):
            toy.silent_trainer(max_epochs=1).fit(one, others)


@pytest.mark.parametrize("loss", [DKD, lambda: WeightedLosses({"kd": KLDistillation(), "dkd": DKD()})])
def test_a_loss_that_changes_during_the_run_needs_an_end(loss: Any) -> None:
    constant = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
    with pytest.raises(ValueError, match="changes during the run, which has no end here: set max_epochs or max_steps"):
        toy.silent_trainer(max_epochs=-1).fit(module(loss(), student_scheduler=constant), loader(LABELS))
    fit(DKD(warmup=0.0), loader(LABELS), student_scheduler=constant)


def test_loaders_do_not_tell_the_shape_that_a_loss_is_built_for() -> None:
    with pytest.raises(ValueError, match=r"FitNet needs the shape of the images, .* pass image_shape=\(C, H, W\)"):
        fit(FitNet(), loader(LABELS), image_shape=None)
    fit(KLDistillation(4.0), loader(LABELS), image_shape=None)


@pytest.mark.parametrize("shape", [None, toy.SHAPE])
def test_loaders_do_not_number_the_images_that_a_loss_remembers(shape: tuple[int, int, int] | None) -> None:
    with pytest.raises(ValueError, match="CRD remembers each image, which loaders do not number: fit with a"):
        fit(CRD(negatives=8, size=8), loader(LABELS), image_shape=shape)
    rows = TensorDataset(IMAGES, LABELS, torch.arange(24))
    with pytest.raises(ValueError, match="CRD remembers each image, which loaders do not number"):
        fit(CRD(negatives=8, size=8), DataLoader(rows, batch_size=8), image_shape=shape)


def test_mixtures_are_no_images_to_remember() -> None:
    from tests.modules.test_distillation import module as on_digits

    with pytest.raises(ValueError, match="CRD remembers each image, and Mixup makes new ones of two"):
        toy.silent_trainer(max_epochs=1).fit(on_digits(CRD(negatives=8, size=8), mixing=Mixup()), DigitsDataModule(64))


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path: Path) -> None:
    trainer, model = toy.silent_trainer(max_epochs=1), module(FitNet())
    trainer.fit(model, loader(LABELS))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    other = toy.observed(toy.network("another teacher"))
    with pytest.raises(ValueError, match="the checkpoint was made with another teacher"):
        Distillation.load_from_checkpoint(
            tmp_path / "run.ckpt", teacher=other, student=toy.network("student 1"), distillation=FitNet()
        )
