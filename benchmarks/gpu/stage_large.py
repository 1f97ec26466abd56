"""A ResNet-34 teacher of ours on CIFAR-10, and Fast's rows to ResNet-18 and MobileNetV2 at the published length.

The teacher is trained by our recipe for fewer epochs, and on packed training images, which are not quite the original
ones; its accuracy and the supervised one of the students are on the original test images. Its weights are too large to
leave the machine, so a machine that has to make rows trains a teacher first. Everything runs in bf16-mixed, compiled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu.fits import COMPILED, accuracies, distilled, fit, packed
from benchmarks.gpu.stage import Job, Stage
from benchmarks.gpu.stage_rows import EVERY, ROUNDS, ROWS, fast, small_base
from benchmarks.quality.ablation import rows

EPOCHS, BATCH_SIZE = 30, 256
MEAN, STD = "[0.4914,0.4822,0.4465]", "[0.2470,0.2435,0.2616]"
NETWORKS = {
    "ResNet-34": ("SmallImageResNet", {"depth": 34}),
    "ResNet-18": ("SmallImageResNet", {"depth": 18}),
    "MobileNetV2": ("lightning_condkd.models.MobileNetV2", {"num_classes": 10, "stem_stride": 1}),
}
STUDENTS = ("ResNet-18", "MobileNetV2")
HALF = "--trainer.precision=bf16-mixed"


def items(small: bool) -> list[str]:
    """Return the teacher, the supervised students, then every row for both students."""
    names = ["teacher ResNet-34", *(f"supervised {student}" for student in STUDENTS)]
    return [*names, *(f"{row} to {student}" for student in STUDENTS[: 1 if small else 2] for row in ROWS)]


def run(item: str, job: Job) -> dict[str, Any]:
    """Train the teacher, a supervised student, or distil one row."""
    if item.startswith("teacher"):
        return _teacher(job)
    if item.startswith("supervised"):
        return _supervised(item.removeprefix("supervised "), job, job.folder / "weights.safetensors")
    if not _weights(job).exists():
        _teacher(job)
    row, student = item.split(" to ")
    flags = [*(_small(job) if job.small else _base(student, job)), *rows()[row], "--seed_everything=0"]
    return {"flags": rows()[row], **distilled(flags, job, *(2, 1) if job.small else (ROUNDS, EVERY))}


def _weights(job: Job) -> Path:
    return job.folder.parent / "teacher.safetensors"


def _teacher(job: Job) -> dict[str, Any]:
    folder = job.folder.parent / "teacher"
    folder.mkdir(exist_ok=True)
    return _supervised("ResNet-34", job._replace(folder=folder), _weights(job))


def _supervised(network: str, job: Job, output: Path) -> dict[str, Any]:
    log = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={job.folder}"]
    small = ["--config=configs/digits/teacher.yaml", "--trainer.check_val_every_n_epoch=1"]
    base = small if job.small else _classification(network, job)
    epochs = 1 if job.small else EPOCHS
    clock = fit([*base, *log, f"--model.init_args.output={output}", f"--trainer.max_epochs={epochs}"], job)
    curve = accuracies(job.folder, "val/accuracy")
    return {"accuracy": list(curve.values())[-1], "curve": curve, "clock": clock, "complete": clock["epochs"] == epochs}


def _classification(network: str, job: Job) -> list[str]:
    at = "model.init_args.network.init_args"
    return [
        "--config=configs/cifar10/resnet20.yaml",
        f"--{at}.weights=null",
        f"--{at}.mean={MEAN}",
        f"--{at}.std={STD}",
        *_network(f"{at}.network", network),
        "--data=benchmarks.gpu.packed_data.PackedCifar10",
        f"--data.init_args.root={job.data}",
        f"--data.init_args.batch_size={BATCH_SIZE}",
        HALF,
        *COMPILED,
    ]


def _network(at: str, name: str) -> list[str]:
    kind, arguments = NETWORKS[name]
    return [f"--{at}={kind}", *(f"--{at}.init_args.{key}={value}" for key, value in arguments.items())]


def _base(student: str, job: Job) -> list[str]:
    at = "model.init_args.teacher.init_args"
    return [
        *fast(),
        *_network(f"{at}.network", "ResNet-34"),
        f"--{at}.mean={MEAN}",
        f"--{at}.std={STD}",
        f"--{at}.weights={_weights(job)}",
        *_network("model.init_args.student", student),
        f"--data.init_args.condensed={job.data / 'res_DM_CIFAR10_ConvNet_10ipc.pt'}",
        *packed(job.data),
    ]


def _small(job: Job) -> list[str]:
    return [*small_base(), f"--model.init_args.teacher.init_args.weights={_weights(job)}"]


STAGE = Stage("large", items, run, share=2.0, jobs=1, least=30.0)
