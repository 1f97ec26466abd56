"""Every inversion method plain, mixed and guided, at one small budget of images: accuracy and where the images lie.

Each way of a method gets the same number of stored images, student steps, augmentation and schedule; PRE-DFKD stores
none and renders as many for its own steps. A run that its result file already holds is not repeated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support.processes import run_script
from benchmarks.support.result_files import origin
from benchmarks.support.sweep import sweep
from lightning_condkd.data import CondensedSet
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.data.image_source import from_folder
from lightning_condkd.pixels import to_pixels
from lightning_condkd.randomness import seeded_generator

INVERSION = "model.init_args.inversion.init_args"
ALIGNMENT = "model.init_args.alignment"
MIX = "data.init_args.mix"


CONTROLS = ("noise", "batch_statistics_noise", "real_subset")
BANK = (*CONTROLS, "fast", "deep_inversion", "adaptive_deep_inversion", "cmi", "nayer")
RANDOM_VECTORS = "data/{}-random-vectors.safetensors"


class Suite(NamedTuple):
    """One task at one budget.

    Args:
        base: flags of every run, without the leading ``--``.
        methods: flags of each method, the same way; its recipe in ``configs/methods`` comes before them.
        student_steps: in a round, of the row without a method.
    """

    base: list[str]
    methods: dict[str, list[str]]
    student_steps: int


def inversion(**arguments: object) -> list[str]:
    """Return flags of a method's arguments."""
    return [f"{INVERSION}.{name.replace('__', '.')}={value}" for name, value in arguments.items()]


def budget(steps: int, size: int, student_steps: int, **arguments: object) -> list[str]:
    """Return flags of rounds of so many synthesis steps, images and student steps; the first is without student."""
    cadence = {"synthesis_steps": steps, "distill_steps": student_steps, "repeats": 1, "warmup_rounds": 1}
    rounds = {f"cadence__{name}": value for name, value in cadence.items()}
    return inversion(**rounds, batch_size=size, **arguments)


def own_flags(method: str, flags: list[str], loss: list[str]) -> list[str]:
    """Return the flags of a method and of the student's loss, without mixture and alignment."""
    recipe = method.split()[0].removeprefix("adaptive_")
    return [f"--config=configs/methods/{recipe}.yaml", *loss, *(f"--{flag}" for flag in flags)]


def ways(method: str, flags: list[str]) -> dict[str, list[str]]:
    """Return the rows of a method: plain, with condensed images mixed in, guided as well at two weights.

    Methods that store images are compared under one distillation loss; those that render them for the step keep the
    loss of their recipe and get a fixed share of condensed images. Words after the name of a method name a variant of
    it, which has only the plain row.
    """
    name = method.split()[0]
    stores = name in BANK or "source=bank" in str(flags)
    own = own_flags(method, flags, SAME_LOSS if stores else [])
    mixed = [*own, f"--{MIX}={'union' if stores else 0.1}"]
    plain = {method: [*own, f"--{ALIGNMENT}=null", f"--{MIX}=0.0"]}
    if name in CONTROLS or name != method:
        return plain
    return {
        **plain,
        f"{method} + condensed": [*mixed, f"--{ALIGNMENT}=null"],
        f"{method}*": [*mixed, f"--{ALIGNMENT}.init_args.weight=5"],
        f"{method}* 0.5": [*mixed, f"--{ALIGNMENT}.init_args.weight=0.5"],
    }


def run(arguments: list[str], threads: int) -> dict[str, Any]:
    """Fit once in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
        script = Path(__file__).with_name("inversion_run.py")
        return dict(run_script(script, [*arguments, *quiet], threads, OMP_WAIT_POLICY="PASSIVE")) | origin()


def condensed_only(student_steps: int) -> list[str]:
    """Return the flags of the row that no method has a part in, at the same student steps."""
    flags = inversion(cadence__synthesis_steps=0, cadence__distill_steps=student_steps, cadence__warmup_rounds=1)
    class_path = "--model.init_args.inversion=NoInversion"
    return [class_path, *SAME_LOSS, *(f"--{flag}" for flag in flags), f"--{ALIGNMENT}=null"]


def digits(steps: int, **arguments: object) -> list[str]:
    """Return the flags of a method on the digits: 16 images a round."""
    return budget(steps, 16, 60, **arguments)


def live(steps: int = 5, repeats: int = 12, **arguments: object) -> list[str]:
    """Return the flags of a method that renders images for every student step: 5 of these to so many of its own."""
    cadence = {"synthesis_steps": steps, "distill_steps": 5, "repeats": repeats, "warmup_rounds": 0}
    return inversion(**{f"cadence__{name}": value for name, value in cadence.items()}, batch_size=64, **arguments)


def cifar10(steps: int, **arguments: object) -> list[str]:
    """Return the flags of a method on CIFAR-10: 50 images a round."""
    return budget(steps, 50, 40, **arguments)


CROP = "{class_path: CropFlip, init_args: {padding: 1, flip_probability: 0.0}}"
ROLL = "{class_path: RollFlip, init_args: {pixels: 1, flip_probability: 0.0}}"
SMALL = {"generator__width": 16, "generator__latent_size": 64}
# The student's settings of DFAD's own code: no augmentation, a rate that falls after a fifth and two fifths of the run.
ITS_STUDENT = [
    "model.init_args.augment={class_path: CropFlip, init_args: {padding: 0, flip_probability: 0.0}}",
    "model.init_args.student_optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9, "
    "weight_decay: 5.0e-4}}",
    "model.init_args.student_scheduler={class_path: torch.optim.lr_scheduler.MultiStepLR, "
    "init_args: {milestones: [2, 4]}}",
]
# The form of DFAD in the DataFree family of codes: bounded pixels from a network of the size of SMALL's.
DATAFREE = {
    **{"generator__width": 32, "generator__latent_size": 64, "generator__betas": "[0.5, 0.999]"},
    **{"generator_output": "sigmoid", "decay_blocks": "[]"},
}


ONE_BATCH = {"cadence__batches": 1, "cadence__warmup_batches": 1}


def file_vectors(suite: str) -> str:
    """Return the flag's value of random vectors in a file, a stand-in for text embeddings."""
    return f"{{class_path: FileVectors, init_args: {{path: {RANDOM_VECTORS.format(suite)}}}}}"


def nayer(vectors: str) -> list[str]:
    """Return the flags of NAYER on the digits with a kind of class vectors."""
    return digits(50, **ONE_BATCH, **SMALL, generator__lr=0.01, augment=CROP, class_vectors=vectors)


def nayer_cifar10(vectors: str) -> list[str]:
    """Return the flags of NAYER on CIFAR-10 with a kind of class vectors."""
    return cifar10(40, **ONE_BATCH, generator__width=32, class_vectors=vectors)


DIGITS = Suite(
    base=[
        "config=configs/quickstart.yaml",
        "trainer.callbacks=[]",
        "trainer.max_epochs=11",
    ],
    methods={
        "noise": digits(1),
        "batch_statistics_noise": digits(10),
        "real_subset": digits(1, images="data/digits-train.safetensors"),
        "fast": digits(5, **SMALL, generator__lr=0.01, latent_lr=0.05, augment=CROP),
        "deep_inversion": digits(100, augment=ROLL),
        "adaptive_deep_inversion": digits(100, augment=ROLL, competition="{weight: 1.0}"),
        "cmi": digits(100, **SMALL, augment=CROP, contrastive__ring_draws=128),
        "nayer": nayer("TeacherHeadVectors"),
        "nayer condensed means": nayer("CondensedMeanVectors"),
        "nayer one-hot": nayer("OrthogonalVectors"),
        "nayer random file": nayer(file_vectors("digits")),
        "dafl": digits(50, source="bank"),
        "zskt": digits(50, source="bank", anneal_blocks=11),
        "dfq": digits(50, **SMALL, source="bank"),
        "dfad": digits(50, **SMALL, source="bank"),
        "dfad (DataFree)": digits(50, **DATAFREE, student_mode="eval", source="bank"),
        "pre_dfkd": digits(50, memory__batch_size=16),
    },
    student_steps=60,
)
CIFAR10 = Suite(
    base=[
        "config=configs/cifar10/fast.yaml",
        "trainer.precision=bf16-mixed",
        "trainer.max_epochs=11",
        "trainer.check_val_every_n_epoch=11",
    ],
    methods={
        "noise": cifar10(1),
        "real_subset": cifar10(1, images="data/cifar10-train.safetensors"),
        "fast": cifar10(5, generator__width=32, bn_weight=1.0),
        "deep_inversion": cifar10(40, optimizer__lr=0.1),
        "cmi": cifar10(40, generator__width=32, contrastive__ring_draws=512),
        "nayer": nayer_cifar10("TeacherHeadVectors"),
        "nayer condensed means": nayer_cifar10("CondensedMeanVectors"),
        "nayer one-hot": nayer_cifar10("OrthogonalVectors"),
        "nayer random file": nayer_cifar10(file_vectors("cifar10")),
        "dafl": cifar10(40, source="bank"),
        "zskt": cifar10(40, source="bank", anneal_blocks=11),
        "dfq": cifar10(40, generator__width=32, source="bank"),
        "dfad": cifar10(40, generator__width=32, source="bank"),
        "pre_dfkd": cifar10(40, memory__batch_size=32, memory__replay_novel=32),
    },
    student_steps=40,
)
LIVE = Suite(
    base=DIGITS.base,
    methods={
        "dafl": live(),
        "zskt": live(anneal_blocks=132),
        "dfq": live(**SMALL),
        "dfad": live(**SMALL),
        # The published ratio in three times as many student steps, without and with the student's settings of its code.
        "dfad (396 blocks of 1 : 5)": live(1, 36, **SMALL),
        "dfad (396 blocks, its student)": [*live(1, 36, **SMALL, decay_blocks="[72, 144]"), *ITS_STUDENT],
        "dfad (DataFree, 396 blocks, the same student)": [
            *live(1, 36, **{**DATAFREE, "decay_blocks": "[72, 144]"}, student_mode="eval", sample_mode="eval"),
            *ITS_STUDENT,
        ],
        "pre_dfkd": live(memory__batch_size=16, memory__replay_novel=64, memory__replay_steps=2),
    },
    student_steps=60,
)
SUITES = {"digits": DIGITS, "digits-live": LIVE, "cifar10": CIFAR10}
SAME_LOSS = ["--model.init_args.distillation=KLDistillation", "--model.init_args.distillation.init_args.temperature=20"]


def write_random_vectors(suite: str) -> None:
    """Write random vectors as a stand-in for text embeddings of the names of a task's classes."""
    path = Path(RANDOM_VECTORS.format(suite))
    path.parent.mkdir(exist_ok=True)
    save_file({"class_vectors": torch.randn(10, 512, generator=seeded_generator(0, "class vectors"))}, path)


def write_real_images(suite: str) -> None:
    """Write the training images of a task, for the upper control."""
    path = Path(f"data/{suite}-train.safetensors")
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        source = load_digits_split(train=True) if suite == "digits" else from_folder("data/cifar10/train")
        images = CondensedSet(to_pixels(source.images), source.labels)
        (images if suite == "digits" else images.subset(500, seed=0)).save(path)


def main() -> None:
    """Run a suite and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="names of methods, and condensed_only")
    parser.add_argument("--rows", nargs="+", help="names of rows of these methods, such as 'dfad*'")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each if more than one")
    options = parser.parse_args()
    suite = SUITES[options.suite]
    task = options.suite.removesuffix("-live")
    write_real_images(task)
    write_random_vectors(task)
    table: dict[str, list[str]] = {}
    if not options.only or "condensed_only" in options.only:
        table["condensed only"] = condensed_only(suite.student_steps)
    for method, flags in suite.methods.items():
        if not options.only or method in options.only:
            table |= ways(method, flags)
    if options.rows:
        table = {row: flags for row, flags in table.items() if row in options.rows}
    base = [f"--{flag}" for flag in suite.base]
    sweep(f"methods-{options.suite}", base, table, options.seeds, options.jobs, run)


if __name__ == "__main__":
    main()
