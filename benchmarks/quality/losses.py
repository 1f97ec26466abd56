"""Every loss on real, condensed, synthetic, and condensed and synthetic images, at one equal budget.

All rows of a suite have the same teacher, student, steps, batch size, augmentation, schedule and optimizer, but for
GenDD, which has AdamW as published. Only loss and images differ, through one path: `CondKD` without inversion, on a set
of these images. Labels are the teacher's predictions. Beside the accuracy: agreement with the teacher, and the expected
calibration error (15 bins), on the held-out images at the end. Rows such as `KD, mixup` are controls: KD on other views
of the same images. A run that the result file already holds is not repeated.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import lightning as L
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import multiclass_calibration_error

from benchmarks.quality.ablation import SUITES as GUIDED
from benchmarks.support.grid_images import SOURCES, ImageFiles
from benchmarks.support.loss_names import CIFAR10_LOSSES, GENDD
from benchmarks.support.loss_rows import Rows, loss_rows
from benchmarks.support.sweep import sweep
from lightning_condkd.augment import Augment, CropFlip, CutMix, DifferentiableAugment, Mixing, Mixup
from lightning_condkd.data import CondensedDataModule, CondensedSet
from lightning_condkd.data.digits import load_digits_split
from lightning_condkd.data.image_source import ImageSource, from_folder
from lightning_condkd.distillation import DistillationLoss, FeatureSampling
from lightning_condkd.inversion import NoInversion
from lightning_condkd.models import CifarResNet, DigitsNet, Observer
from lightning_condkd.modules import CondKD
from lightning_condkd.pixels import to_pixels
from lightning_condkd.rounds import Cadence

GENDD_ARGUMENTS = {  # our small setting: the published one would take minutes a step here
    "token_size": 16,
    "width": 128,
    "batch_multiplier": 4,
    "sampling": FeatureSampling("ddim", steps=8, samples=1),
}
WITHOUT_FLIP = DifferentiableAugment(("color", "translation", "cutout"))
DIGITS_MAPS = ("features.2", "features.5", "features.8")


class Suite(NamedTuple):
    """One task.

    Args:
        teacher: makes the teacher.
        student: makes a student.
        files: where the images come from.
        held_out: reads the held-out images.
        losses: the rows.
        optimizer: of the student, but for GenDD.
        augment: view of the images.
        precision: of the trainer.
        views: arguments of `CondKD` that change what KD sees, as controls; they leave the equal augmentation.
        budget: rounds, student steps in a round, batch size, rounds from one validation to the next.
    """

    teacher: Callable[[], Observer]
    student: Callable[[], torch.nn.Module]
    files: ImageFiles
    held_out: Callable[[], ImageSource]
    losses: Rows
    optimizer: Callable[..., torch.optim.Optimizer]
    augment: CropFlip
    precision: Any
    views: dict[str, dict[str, Augment | Mixing]]
    budget: tuple[int, int, int, int]


SUITES = {
    "digits": Suite(
        teacher=lambda: Observer(
            DigitsNet(width=32), mean=[0.3059], std=[0.3754], weights="package:digits-teacher.safetensors"
        ),
        student=lambda: DigitsNet(width=16),
        files=ImageFiles(
            "digits", partial(load_digits_split, train=True), "package:digits-dm-1ipc.safetensors", GUIDED["digits"]
        ),
        held_out=partial(load_digits_split, train=False),
        losses=loss_rows(DIGITS_MAPS, 512, GENDD_ARGUMENTS, WITHOUT_FLIP),
        optimizer=partial(Adam, lr=3e-3),
        augment=CropFlip(padding=1, flip_probability=0.0),
        precision="32-true",
        views={
            "second view of MLKD": {"augment": WITHOUT_FLIP},
            "mixup": {"mixing": Mixup()},
            "CutMix": {"mixing": CutMix()},
        },
        budget=(10, 40, 64, 1),
    ),
    "cifar10": Suite(
        teacher=lambda: Observer(
            CifarResNet(20),
            mean=[0.485, 0.456, 0.406],
            std=[0.229, 0.224, 0.225],
            weights="data/resnet20-cifar10.safetensors",
        ),
        student=lambda: CifarResNet(8),
        files=ImageFiles(
            "cifar10",
            partial(from_folder, "data/cifar10/train"),
            "data/res_DM_CIFAR10_ConvNet_10ipc.pt",
            [*GUIDED["cifar10"], "--trainer.precision=bf16-mixed", "--trainer.check_val_every_n_epoch=40"],
        ),
        held_out=partial(from_folder, "data/cifar10/test"),
        losses={row: loss_rows(None, 16384, GENDD_ARGUMENTS)[row] for row in CIFAR10_LOSSES},
        optimizer=partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-4),
        augment=CropFlip(),
        precision="bf16-mixed",
        views={},  # `mixed_views.py` has them at a longer budget
        budget=(10, 60, 128, 5),
    ),
}


class Task(NamedTuple):
    """What all runs of a suite share: the frozen teacher, held-out images, their labels and the teacher's logits."""

    teacher: Observer
    images: Tensor
    labels: Tensor
    logits: Tensor

    @classmethod
    @cache
    def load(cls, name: str) -> Task:
        """Read a suite's teacher and held-out images."""
        teacher, source = SUITES[name].teacher().freeze(), SUITES[name].held_out()
        images = to_pixels(torch.as_tensor(source.images))
        return cls(teacher, images, source.labels, logits_of(lambda x: teacher(x).logits, images))

    def loader(self) -> DataLoader[Any]:
        """Return the held-out images for validation."""
        return DataLoader(TensorDataset(self.images, self.labels), batch_size=500)

    def figures(self, module: CondKD) -> dict[str, float]:
        """Return agreement with the teacher, calibration error, and accuracies of other ways to predict."""
        module.eval()
        logits = logits_of(lambda x: module.classifier(x).logits, self.images)
        ways = module.distillation.other_predictors(module.student)
        others = {name: self.accuracy(logits_of(predict, self.images)) for name, predict in ways.items()}
        error = multiclass_calibration_error(logits.softmax(1), self.labels, logits.shape[1], n_bins=15)
        agreement = (logits.argmax(1) == self.logits.argmax(1)).float().mean()
        return {"agreement": round(float(agreement), 4), "calibration_error": round(float(error), 4), **others}

    def accuracy(self, logits: Tensor) -> float:
        """Return the share of right predictions."""
        return round(float((logits.argmax(1) == self.labels).float().mean()), 4)


@torch.no_grad()
def logits_of(predict: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the logits of many images."""
    return torch.cat([predict(part).float() for part in torch.split(images, 500)])


@cache
def images_of(suite: str, source: str) -> CondensedSet:
    """Return the images of a source."""
    return SUITES[suite].files.load(source, Task.load(suite).teacher)


class Curve(L.Callback):
    """The accuracy after every validation."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the accuracy."""
        self.values.append(round(float(trainer.callback_metrics["val/student_accuracy"]), 4))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return a run's options; the base and the flags of its row in the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", choices=SUITES)
    parser.add_argument("--loss")
    parser.add_argument("--images", choices=SOURCES)
    parser.add_argument("--view")
    for number in ("rounds", "round_steps", "batch_size", "validate_every", "seed_everything"):
        parser.add_argument(f"--{number}", type=int)
    return parser.parse_args(arguments)


def run(arguments: list[str], threads: int) -> dict[str, Any]:
    """Train a student once; return its accuracies and figures."""
    torch.set_num_threads(threads)
    options = parse(arguments)
    suite, task, curve = SUITES[options.suite], Task.load(options.suite), Curve()
    images = images_of(options.suite, options.images)
    start = time.process_time()
    L.seed_everything(options.seed_everything, verbose=False)
    module = make(suite, task, suite.losses[options.loss](), options)
    data = CondensedDataModule(images, batch_size=options.batch_size, mix=1.0, val_dataloaders=task.loader())
    trainer = L.Trainer(
        max_epochs=options.rounds,
        check_val_every_n_epoch=options.validate_every,
        precision=suite.precision,
        accelerator="cpu",
        callbacks=[curve],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    return {
        "seed": options.seed_everything,
        "student_accuracy_last": curve.values[-1],
        "student_accuracy_best": max(curve.values),
        "figures": task.figures(module),
        "cpu_seconds": round(time.process_time() - start, 1),
        "curve": curve.values,
    }


def make(suite: Suite, task: Task, loss: DistillationLoss, options: argparse.Namespace) -> CondKD:
    """Return the module of a run."""
    optimizer = partial(AdamW, lr=1e-3, weight_decay=0.05) if options.loss == GENDD else suite.optimizer
    cadence = Cadence(synthesis_steps=0, distill_steps=options.round_steps)
    inversion, seed = NoInversion(cadence=cadence), options.seed_everything
    views: dict[str, Any] = {"augment": suite.augment, **suite.views.get(options.view, {})}
    more = {"student_optimizer": optimizer, "seed": seed, **views}
    module = CondKD(task.teacher, suite.student(), inversion, distillation=loss, **more)
    module.teacher_accuracy = task.accuracy(task.logits)  # else every run would measure it again
    return module


def main() -> None:
    """Run a suite and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--losses", nargs="+", metavar="LOSS", help="names of rows, such as KD")
    parser.add_argument("--images", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--name", help="name of the result file")
    parser.add_argument("--rounds", type=int, help="in place of those of the suite, with another --name")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="lightning")
    suite = SUITES[options.suite]
    names = ("rounds", "round_steps", "batch_size", "validate_every")
    budget = dict(zip(names, suite.budget, strict=True))
    budget["rounds"] = options.rounds or budget["rounds"]
    budget["validate_every"] = min(budget["validate_every"], budget["rounds"])
    base = [f"--suite={options.suite}", *(f"--{name}={value}" for name, value in budget.items())]
    flags = {loss: [f"--loss={loss}"] for loss in suite.losses}
    flags |= {f"KD, {view}": ["--loss=KD", f"--view={view}"] for view in suite.views}
    if unknown := [row for row in options.losses or () if row not in flags]:
        parser.error(f"--losses: expected some of {', '.join(flags)}, got {', '.join(unknown)}")
    table = {
        f"{row} on {images}": [*flags[row], f"--images={images}"]
        for row in options.losses or flags
        for images in options.images
    }
    sweep(options.name or f"losses-{options.suite}", base, table, options.seeds, 1, run)


if __name__ == "__main__":
    main()
