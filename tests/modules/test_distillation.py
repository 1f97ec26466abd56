"""Distillation on real images: what it trains, what it is given, and what it leaves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from lightning_condkd.augment import CropFlip, CutMix, Mixup
from lightning_condkd.commands.export import export
from lightning_condkd.data import DigitsDataModule, StreamedFolderDataModule
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.distillation import (
    CRD,
    CrossEntropy,
    DistillationLoss,
    FeatureSampling,
    FitNet,
    GenDD,
    KLDistillation,
    NormDirection,
    TeacherClassifier,
    WeightedLosses,
)
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.modules import CondKD, Distillation
from lightning_condkd.randomness import seeded_generator, seeded_initialization
from lightning_condkd.steps.class_means import class_means
from tests.conftest import ROOT
from tests.helpers import losses, photos, toy
from tests.helpers.callbacks import SaveAt

RECIPE = f"--config={ROOT / 'configs' / 'digits' / 'distillation.yaml'}"
FAST = partial(torch.optim.SGD, lr=0.2, momentum=0.9)
SIMKD = f"--config={ROOT / 'configs' / 'losses' / 'simkd.yaml'}"


def teacher() -> Observer:
    """Return the teacher that the package ships, right on 98.8 % of the held-out digits."""
    return Observer(DigitsNet(), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors").freeze()


def student(seed: int = 0, width: int = 8) -> DigitsNet:
    with seeded_initialization(seeded_generator(seed, "student")):
        return DigitsNet(width=width)


def module(loss: DistillationLoss | None = None, **arguments: Any) -> Distillation:
    given = {"student": student(), "augment": CropFlip(1, 0.0), "student_optimizer": FAST, "seed": 0, **arguments}
    return Distillation(given.pop("teacher", teacher()), given.pop("student"), loss, **given)


def fit(model: Distillation, *callbacks: L.Callback, resume: Path | None = None, **options: Any) -> L.Trainer:
    data = options.pop("data", None) or DigitsDataModule(256, seed=0)
    given = {"max_epochs": 2, "limit_val_batches": 0, **options}
    trainer = toy.silent_trainer(callbacks=list(callbacks), **given)
    trainer.fit(model, data, ckpt_path=resume)
    return trainer


def measured(stage: str, model: Distillation) -> dict[str, float]:
    """Return what a test or validation of the held-out digits logs."""
    trainer = toy.silent_trainer()
    (trainer.test if stage == "test" else trainer.validate)(model, DigitsDataModule(), verbose=False)
    return {name.removeprefix(f"{stage}/"): float(value) for name, value in trainer.callback_metrics.items()}


def weights(model: Distillation) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.student.state_dict().items()}


def test_a_plain_student_is_exported_by_its_own_names(tmp_path: Path) -> None:
    model = module(hint_and_kd())
    fit(model).save_checkpoint(tmp_path / "run.ckpt")
    export(str(tmp_path / "run.ckpt"), str(tmp_path / "student.pt"))
    loaded = Observer(DigitsNet(width=8), (0.3059,), (0.3754,), weights=tmp_path / "student.pt").eval()
    images = load_digits_split(train=False).images / 255
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model.eval()(images))


def hint_and_kd() -> DistillationLoss:
    return WeightedLosses({"kd": KLDistillation(4.0), "hint": FitNet()})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_student_learns_from_the_teacher_and_not_from_an_untrained_one(seed: int) -> None:
    """Without labels, so that all it learns is the teacher's; the same with an untrained teacher is the control."""
    accuracies = []
    for given in (teacher(), Observer(student(9, width=32), (0.3059,), (0.3754,)).freeze()):
        model = module(hint_and_kd(), teacher=given, student=student(seed), use_labels=False, seed=seed)
        fit(model, max_epochs=4, data=DigitsDataModule(64, seed=seed))
        accuracies.append(measured("val", model)["student_accuracy"])
    assert accuracies[0] > 0.7
    assert accuracies[1] < 0.3


def test_a_test_of_gendd_reports_both_predictions() -> None:
    sampling = FeatureSampling(sampler="ddim", steps=8, samples=1)
    loss = GenDD(token_size=16, width=64, batch_multiplier=4, sampling=sampling)
    model = module(loss, student_optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3))
    fit(model, max_epochs=6, data=DigitsDataModule(64, seed=0))
    found = measured("test", model)
    source = load_digits_split(train=False)
    images = source.images / 255
    model.eval()
    ways = {"student": model(images), "sampled": loss.sample_logits(model.student, images)}
    right = {name: float((logits.argmax(1) == source.labels).float().mean()) for name, logits in ways.items()}
    assert found == pytest.approx({"teacher_accuracy": 0.988} | {f"{name}_accuracy": n for name, n in right.items()})
    assert right["sampled"] > 0.4 > right["student"]  # the student's own layer learns more slowly
    assert set(measured("val", model)) == {"student_accuracy", "teacher_accuracy"}


def test_the_first_stage_of_gendd_is_measured_by_the_teacher_s_layer() -> None:
    model = module(TeacherClassifier())
    fit(model, max_epochs=4, data=DigitsDataModule(64, seed=0))
    found = measured("test", model)
    assert found["teacher_classifier_accuracy"] > 0.8
    assert found["student_accuracy"] < 0.5


def test_a_run_that_diverges_ends_with_what_diverged(tmp_path: Path) -> None:
    model = module(hint_and_kd(), student_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e30))
    with pytest.raises(FloatingPointError, match=r"the student diverged in epoch 1: .*Lower its learning rate"):
        fit(model, default_root_dir=tmp_path)


@pytest.mark.parametrize("mixing", [Mixup(), CutMix()])
def test_mixtures_reach_both_networks_and_the_labels(mixing: Any) -> None:
    seen: list[Tensor] = []

    class Noting(CrossEntropy):
        def forward(self, student: Any, teacher: Any, labels: Tensor | None = None) -> Tensor:
            assert labels is not None
            seen.append(labels)
            return super().forward(student, teacher, labels)

    plain, mixed = module(CrossEntropy()), module(Noting(), mixing=mixing)
    for model in (plain, mixed):
        fit(model)
    assert not toy.same(weights(plain), weights(mixed))
    assert {tuple(labels.shape) for labels in seen} == {(256, 10)}
    assert all(torch.allclose(labels.sum(1), torch.ones(256)) for labels in seen)
    assert any(bool((labels.max(1).values < 0.95).any()) for labels in seen)


@pytest.mark.parametrize(
    "options", [{"gradient_clip_val": 0.1}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}], ids=str
)
def test_options_of_the_trainer_reach_the_training(options: dict[str, Any]) -> None:
    plain, changed = module(hint_and_kd()), module(hint_and_kd())
    steps = [fit(plain).global_step, fit(changed, **options).global_step]
    assert steps == [10, 6 if "accumulate_grad_batches" in options else 10]
    assert not toy.same(weights(plain), weights(changed))
    assert all(bool(value.isfinite().all()) for value in changed.state_dict().values())
    assert {value.dtype for value in changed.student.parameters()} == {torch.float32}


def test_accumulated_batches_are_one_batch_without_batch_statistics() -> None:
    """Two halves of a batch, summed, are the whole one, where nothing couples the images of a batch."""
    ends = []
    for size, count in ((256, 1), (128, 2)):
        model = module(
            KLDistillation(4.0), student=toy.network("student 1", num_classes=10, norm="none"), augment=CropFlip(0, 0.0)
        )
        options = {
            "accumulate_grad_batches": count,
            "precision": "64-true",
            "max_epochs": 1,
            "limit_train_batches": count,
        }
        fit(model, data=InOrder(size), **options)
        ends.append(weights(model))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-10, atol=1e-12)


class InOrder(DigitsDataModule):
    """The digits in order."""

    def __init__(self, size: int) -> None:
        super().__init__(size, seed=0)

    def train_dataloader(self) -> Any:
        images, labels = self.train_source.images, self.train_source.labels
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), self.batch_size)


def test_class_means_are_those_of_the_training_images() -> None:
    """Of the 1280 digits in the whole batches of an epoch; those left over differ."""
    model = module(NormDirection())
    fit(model, max_epochs=1)
    source = load_digits_split(train=True)
    expected = class_means(teacher(), [(source.images / 255, source.labels)])
    found = model.distillation.class_means
    assert float((found - expected).norm() / expected.norm()) < 0.02
    shuffled = class_means(teacher(), [(source.images / 255, source.labels.roll(1))])
    assert float((found - shuffled).norm() / expected.norm()) > 0.2


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_class_means_in_another_precision(precision: Any) -> None:
    models = module(NormDirection()), module(NormDirection())
    for model, given in zip(models, ("32-true", precision), strict=True):
        fit(model, max_epochs=1, limit_train_batches=1, precision=given)
    expected, found = (model.distillation.class_means.double() for model in models)
    assert float((found - expected).norm() / expected.norm()) < (1e-6 if precision == "64-true" else 0.01)
    condensed = [losses.condkd(NormDirection()) for _ in range(2)]
    for other, given in zip(condensed, ("32-true", precision), strict=True):
        toy.fit(other, max_epochs=2, precision=given)
    first, second = (other.distillation.class_means.double() for other in condensed)
    assert float((first - second).norm() / first.norm()) < (1e-6 if precision == "64-true" else 0.02)


@pytest.mark.parametrize("kind", ["memory", "streamed"])
def test_crd_knows_each_image_of_the_data(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    if kind == "streamed":
        classes = [str(label) for label in range(10)]
        photos.write(root / "train", classes, 2)
        photos.write(root / "test", classes, 1)

    def data() -> L.LightningDataModule:
        if kind == "memory":
            return DigitsDataModule(256, seed=0)
        return StreamedFolderDataModule(root, image_size=8, channels=1, batch_size=16, num_workers=0, seed=0)

    size, length = (1297, 5) if kind == "memory" else (2 * 10 + 45, 4)
    whole, rest = module(CRD(negatives=16, size=8)), module(CRD(negatives=16, size=8))
    fit(whole, SaveAt(length + 2, tmp_path / "cut.ckpt"), data=data())
    memory = whole.distillation.memory
    assert len(memory.teacher) == size
    assert length * (256 if kind == "memory" else 16) <= int((memory.classes >= 0).sum()) <= size
    fit(rest, resume=tmp_path / "cut.ckpt", data=data())
    assert toy.same(dict(whole.state_dict()), dict(rest.state_dict()))


def test_defaults_of_the_student_s_training_are_those_of_the_published_protocol() -> None:
    model = Distillation(losses.teacher(), losses.network(2, "student"))
    optimizer = model.make_student_optimizer(model.student, model.distillation)
    settings = {name: optimizer.defaults[name] for name in ("lr", "momentum", "weight_decay")}
    assert (type(optimizer), settings) == (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4})


def test_a_datamodule_used_again_gives_rows_only_where_they_are_needed() -> None:
    data = DigitsDataModule(64, seed=0)
    for name, expected in (("CRD", True), ("KLDistillation", False)):
        toy.silent_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(
            module(losses.make(name)), data
        )
        assert data.with_rows is expected


def test_a_folder_without_classes_is_distilled_as_one_whose_labels_are_not_used(tmp_path: Path) -> None:
    """As in the preset of GenDD without labels: images of any folder, measured on others with classes."""
    classes = [str(label) for label in range(10)]
    photos.write(tmp_path / "train", classes, 2)
    photos.write(tmp_path / "held out" / "test", classes, 1)
    common = {"image_size": 8, "channels": 1, "batch_size": 16, "num_workers": 0, "seed": 0}
    sampling = FeatureSampling(sampler="ddim", steps=2, samples=1)
    ends = []
    for labeled in (False, True):
        loss = GenDD(
            token_size=16,
            width=16,
            depth=1,
            batch_multiplier=1,
            contraction=0.0,
            linear_weight=0.0,
            sampling=sampling,
        )
        model = module(loss, use_labels=not labeled)
        data = StreamedFolderDataModule(tmp_path, "train", "held out/test", labeled=labeled, **common)
        fit(model, data=data)
        trainer = toy.silent_trainer()
        trainer.test(model, data, verbose=False)
        assert {"test/sampled_accuracy", "test/student_accuracy"} <= set(trainer.callback_metrics)
        ends.append(dict(model.state_dict()))
    assert toy.same(*ends)


def test_a_checkpoint_of_another_module_is_refused(tmp_path: Path) -> None:
    fit(module(), SaveAt(2, tmp_path / "real.ckpt"))
    toy.fit(toy.condkd(), max_epochs=2, callbacks=[SaveAt(2, tmp_path / "free.ckpt")])
    with pytest.raises(ValueError, match="expected a checkpoint of CondKD, got one of another module"):
        CondKD.load_from_checkpoint(
            tmp_path / "real.ckpt", teacher=teacher(), student=student(), inversion=toy.fast(), map_location="cpu"
        )
    with pytest.raises(ValueError, match="expected a checkpoint of Distillation, got one of another module"):
        Distillation.load_from_checkpoint(tmp_path / "free.ckpt", teacher=teacher(), student=student())
