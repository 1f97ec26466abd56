"""Condensed sets and plain choices of real images, made by our own commands, judged, and expanded.

For every set and seed: it is made; fresh networks are trained on it alone; its distance to real images in the teacher's
features is measured; and a student is distilled from it by CondKD at one equal budget, with the set mixed in (``+
condensed``) and as guide as well (``*``). A seed gives a set, the networks that judge it and the student. What the
result file already holds is not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import common
import embeddings
import rows
import torch
from sweep import spread

from lightning_condkd.augment import SiameseAugment
from lightning_condkd.data import CondensedSet, DigitsDataModule, ImageFolderDataModule
from lightning_condkd.evaluation import Recipe, evaluate
from lightning_condkd.models import CifarResNet, ConvNet, DigitsNet, FreshNetworks, Observer
from lightning_condkd.pixels import to_pixels

FOLDER = Path("data/sets")
METHOD = "model.init_args.method.init_args"


class Suite(NamedTuple):
    """One dataset.

    Args:
        sets: by images per class and name, the command that makes a set; it gets ``--seed...`` and the output.
        expand: flags of the run that expands one.
        real: makes the datamodule of the real images.
        networks: what judges a set.
        recipe: how these are trained.
        runs: how many judge a set.
        teacher: makes the network in whose features the set's distance to real images is measured.
    """

    sets: Mapping[str, list[str]]
    expand: list[str]
    real: Any
    networks: Any
    recipe: Recipe
    runs: int
    teacher: Callable[[], Observer]


def fit(config: str, *flags: str) -> list[str]:
    """Return the command of a fit, with flags without the leading ``--``."""
    return ["fit", f"--config=configs/{config}.yaml", *(f"--{flag}" for flag in flags)]


def select(method: str, ipc: int, data: list[str], teacher: list[str]) -> list[str]:
    """Return the command of a choice of real images."""
    return ["select", *data, f"--method={method}", f"--ipc={ipc}", *(teacher if method != "RandomSelection" else [])]


DIGITS_TEACHER = [
    "--teacher.network=DigitsNet",
    "--teacher.network.init_args.width=32",
    "--teacher.mean=[0.3059]",
    "--teacher.std=[0.3754]",
    "--teacher.weights=package:digits-teacher.safetensors",
]
CIFAR_TEACHER = [
    "--teacher.network=CifarResNet",
    "--teacher.network.init_args.depth=20",
    "--teacher.mean=[0.485,0.456,0.406]",
    "--teacher.std=[0.229,0.224,0.225]",
    "--teacher.weights=data/resnet20-cifar10.safetensors",
]
SELECTIONS = ("RandomSelection", "Herding", "KCenter", "KMeans", "RealismSelection")


def digits(ipc: int) -> dict[str, list[str]]:
    """Return the commands for the digits: each method of ours takes a minute or two on one core."""
    size = f"model.init_args.ipc={ipc}"
    loops = [f"{METHOD}.inner_steps=10", f"{METHOD}.network_epochs=10"] if ipc > 1 else []
    learned = {
        "DM": fit("digits/dm", size),
        "DC": fit("digits/dc", size, *loops),
        "DSA": fit("digits/dsa", size, *loops),
        "MTT": fit("digits/mtt", size, f"{METHOD}.experts=data/sets/digits-experts"),
        "generative": fit("digits/generative", size),
    }
    chosen = {name: select(name, ipc, ["--data=DigitsDataModule"], DIGITS_TEACHER) for name in SELECTIONS}
    return {f"{name} {ipc}": command for name, command in {**chosen, **learned}.items()}


def cifar10() -> dict[str, list[str]]:
    """Return the commands for CIFAR-10 at 10 images per class and stated small budgets."""
    budget = ["trainer.max_epochs=1", "trainer.precision=32-true", f"{METHOD}.real_batch=64"]
    steps, short = "model.init_args.steps_per_epoch", f"{METHOD}.network_epochs=5"
    data = ["--data=ImageFolderDataModule", "--data.root=data/cifar10"]
    return {
        **{f"{name} 10": select(name, 10, data, CIFAR_TEACHER) for name in SELECTIONS},
        "DM 10": fit("cifar10/dm", *budget, f"{steps}=100"),
        "DSA 10": fit("cifar10/dsa", *budget, f"{steps}=60", short),
        "DC 10": fit("cifar10/dc", *budget, f"{steps}=60", short, "model.init_args.init=real"),
    }


GRAY = (0.3059,), (0.3754,)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIGITS_NETWORK = partial(ConvNet, 10, image_size=8, in_channels=1, depth=2, width=64)
SUITES = {
    "digits": Suite(
        sets=digits(1) | digits(10),
        expand=[
            "--config=configs/quickstart.yaml",
            "--trainer.callbacks=[]",
            "--trainer.max_epochs=11",
            "--model.init_args.inversion.init_args.batch_size=16",
        ],
        real=DigitsDataModule,
        networks=FreshNetworks(DIGITS_NETWORK, *GRAY),
        recipe=Recipe(epochs=300, augment=SiameseAugment("color_crop_cutout_scale_rotate", fill=0.0)),
        runs=3,
        teacher=lambda: Observer(DigitsNet(), *GRAY, weights="package:digits-teacher.safetensors").freeze(),
    ),
    "cifar10": Suite(
        sets=cifar10(),
        expand=[
            "--config=configs/cifar10/fast.yaml",
            "--trainer.precision=bf16-mixed",
            "--trainer.max_epochs=11",
            "--trainer.check_val_every_n_epoch=11",
        ],
        real=partial(ImageFolderDataModule, "data/cifar10"),
        networks=FreshNetworks(ConvNet, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        recipe=Recipe(epochs=151, augment=SiameseAugment(fill=0.47)),
        runs=2,
        teacher=lambda: Observer(CifarResNet(20), *IMAGENET, weights="data/resnet20-cifar10.safetensors").freeze(),
    ),
}


def make(command: list[str], output: Path, seed: int) -> float:
    """Run a command of ours that writes a set; return its CPU-seconds."""
    with tempfile.TemporaryDirectory() as folder:
        return _make(command, output, seed, folder)


def _make(command: list[str], output: Path, seed: int, folder: str) -> float:
    if command[0] == "fit":
        flags = [f"--model.init_args.output={output}", f"--seed_everything={seed}"]
        flags += [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
    else:
        flags = [str(output), f"--seed={seed}"]
    return round(common.run([*command, *flags]), 1)


def make_experts() -> None:
    """Train the experts of trajectory matching on the digits, once."""
    if not (FOLDER / "digits-experts").exists():
        make(fit("digits/experts"), FOLDER / "digits-experts", 0)


def evaluate_set(path: Path, suite: Suite, seed: int) -> dict[str, Any]:
    """Train fresh networks on a set; return accuracies and the CPU-seconds of all."""
    condensed, test = CondensedSet.load(path), suite.real().val_source
    rate = condensed.info.settings.get("train_lr")
    recipe = suite.recipe if rate is None else Recipe(**{**vars(suite.recipe), "learning_rate": rate})
    begin = time.thread_time()
    result = evaluate(
        condensed.pixels(slice(None)),
        condensed.labels,
        test.images,
        test.labels,
        suite.networks,
        recipe,
        runs=suite.runs,
        seed=seed,
    )
    return {"accuracies": result.last, "learning_rate": recipe.full_rate, "cpu_seconds": time.thread_time() - begin}


def place(path: Path, suite: Suite) -> float:
    """Return how far a set lies from held-out real images of its classes in the teacher's features."""
    condensed, test, teacher = CondensedSet.load(path), suite.real().val_source, suite.teacher()
    rows = torch.linspace(0, len(test) - 1, min(len(test), 2000)).long()
    images = (to_pixels(test.images[rows]), condensed.pixels(slice(None)))
    real, few = (embeddings.embed(teacher, part) for part in images)
    pairs = embeddings.class_pairs(few, condensed.labels, real, test.labels[rows])
    return round(embeddings.distance_in_class(pairs) / embeddings.spread(real), 4)


def expand(path: Path, suite: Suite, seed: int) -> dict[str, float]:
    """Distil a student from a set, mixed in and as guide as well."""
    ways = {"+ condensed": rows.PLAIN, "*": []}
    base = [*suite.expand, f"--data.init_args.condensed={path}", f"--seed_everything={seed}"]
    return {way: rows.run([*base, *flags], threads=1)["student_accuracy_last"] for way, flags in ways.items()}


def work(name: str, suite: Suite, row: str, seed: int, done: dict[str, Any], students: bool) -> dict[str, Any]:
    """Make, judge and expand one set, as far as that is not done."""
    path = FOLDER / f"{name}-{row.replace(' ', '-')}-seed{seed}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = dict(done)
    if not done or not path.exists():
        result["making_cpu_seconds"] = make(suite.sets[row], path, seed)
    if not done:
        result |= {"alone": evaluate_set(path, suite, seed), "origin": common.origin()}
    if "distance" not in result:
        result["distance"] = place(path, suite)
    if students and "student" not in result:
        result["student"] = expand(path, suite, seed)
    return result


def add(content: dict[str, Any], row: str, seed: int, result: dict[str, Any]) -> None:
    """Add a result to its row, and the row's means over seeds."""
    entry = content["rows"].setdefault(row, {"runs": {}})
    entry["runs"][str(seed)] = result
    runs = list(entry["runs"].values())
    entry["distance"] = spread([run["distance"] for run in runs if "distance" in run], 1)
    entry["alone"] = spread([sum(run["alone"]["accuracies"]) / len(run["alone"]["accuracies"]) for run in runs])
    for way in ("+ condensed", "*"):
        values = [run["student"][way] for run in runs if "student" in run]
        if values:
            entry[f"student {way}"] = spread(values)


def main() -> None:
    """Run a suite and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="names of sets, as 'DM 10'")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-students", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    suite, name = SUITES[options.suite], f"sets-{options.suite}"
    if options.suite == "digits":
        make_experts()
    path = common.RESULTS / f"{name}.json"
    content = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    content |= {"commands": suite.sets, "expand": suite.expand, "recipe": suite.recipe.settings(), "runs": suite.runs}
    writing, chosen = Lock(), [row for row in suite.sets if not options.only or row in options.only]

    def job(task: tuple[int, str]) -> None:
        seed, row = task
        done = content["rows"].get(row, {"runs": {}})["runs"].get(str(seed), {})
        if "distance" in done and ("student" in done or options.no_students):
            return
        result = work(options.suite, suite, row, seed, done, not options.no_students)
        print(f"{row:20} seed {seed}: {json.dumps(result)}", flush=True)
        with writing:
            add(content, row, seed, result)
            common.write(name, content)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(job, [(seed, row) for seed in options.seeds for row in chosen]))


if __name__ == "__main__":
    main()
