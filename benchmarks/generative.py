"""Sets frozen from a generator on the digits, with and without self-distillation, beside real and learned images.

Every set is judged alike: fresh ConvNets are trained on it alone and tested on the 500 held-out digits. Rows of one
budget of steps have the same first stage for a seed, so they differ by the second alone. A run that the result file
already holds is not repeated.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import common
import lightning as L
import torch
from sweep import spread

from lightning_condkd.augment import SiameseAugment
from lightning_condkd.condensation.generative import ConditionalGAN, SelfDistillation
from lightning_condkd.condensation.parts.matching_pool import MatchingPool
from lightning_condkd.data import CondensedSet
from lightning_condkd.data.image_datamodules import DigitsDataModule, load_digits_split
from lightning_condkd.evaluation.evaluate import evaluate
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.models import ConvNet
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.modules.generative_condensation import GenerativeCondensation

IPC = (1, 10)
MEAN, STD = (0.3059,), (0.3754,)
AUGMENT = SiameseAugment("color_crop_cutout_scale_rotate", fill=0.0)
NETWORK = partial(ConvNet, 10, image_size=8, in_channels=1, depth=2)
FAST = {"learning_rate": 5e-4}  # the rate of the first stage: the second is short here
DIM = {"distance": "mse", "temperature": 1.0, "standardise": False, "weight": 0.01}


class Row(NamedTuple):
    """One way to train the generator.

    Args:
        gan: epochs of the first stage.
        matching: epochs of the second.
        term: arguments of the second stage's term.
    """

    gan: int
    matching: int
    term: dict[str, Any]


ROWS = {
    "GAN, 3 epochs": Row(3, 0, {}),
    "GAN, 6 epochs": Row(6, 0, {}),
    "GAN, 12 epochs": Row(12, 0, {}),
    "6 + 4: GAN alone": Row(6, 4, {"weight": 0.0}),
    "6 + 4: KL by sample": Row(6, 4, {"weight": 1.0}),
    "6 + 4: KL by sample, weight 10": Row(6, 4, {"weight": 10.0}),
    "6 + 4: KL by sample, not standardised": Row(6, 4, {"weight": 1.0, "standardise": False}),
    "6 + 4: KL of class means": Row(6, 4, {"weight": 1.0, "pairing": "class_mean"}),
    "6 + 4: KL of class means, not standardised": Row(
        6, 4, {"weight": 1.0, "pairing": "class_mean", "standardise": False}
    ),
    "6 + 4: DiM's distance": Row(6, 4, DIM),
    "6 + 4, fast: GAN alone": Row(6, 4, {**FAST, "weight": 0.0}),
    "6 + 4, fast: KL by sample, weight 10": Row(6, 4, {**FAST, "weight": 10.0}),
    "6 + 4, fast: the same, not standardised": Row(6, 4, {**FAST, "weight": 10.0, "standardise": False}),
    "6 + 4, fast: KL of class means, weight 10": Row(6, 4, {**FAST, "weight": 10.0, "pairing": "class_mean"}),
    "12 + 8, fast: GAN alone": Row(12, 8, {**FAST, "weight": 0.0}),
    "12 + 8, fast: KL by sample, weight 10": Row(12, 8, {**FAST, "weight": 10.0}),
}


def generator(row: Row, steps: int, seed: int, folder: str) -> GenerativeCondensation:
    """Train a generator with the networks of ``configs/digits/generative.yaml``."""
    networks = FreshNetworks(partial(NETWORK, width=32), MEAN, STD)
    pool = MatchingPool(networks, augment=AUGMENT, training_batches=4)
    module = GenerativeCondensation(
        pool,
        gan=ConditionalGAN(latent_size=32, width=32, learning_rate=5e-4, batch_size=64),
        matching=SelfDistillation(**{"learning_rate": 1e-4, **row.term}),
        gan_epochs=row.gan,
        steps_per_epoch=steps,
        output=Path(folder) / "set.safetensors",
        seed=seed,
    )
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=row.gan + row.matching, default_root_dir=folder, **quiet)
    trainer.fit(module, DigitsDataModule())
    return module


def evaluate_set(condensed: CondensedSet, options: argparse.Namespace, seed: int) -> list[float]:
    """Return the accuracies of a few networks that are trained on a set."""
    test = load_digits_split(train=False)
    recipe = Recipe(epochs=options.epochs, augment=AUGMENT)
    networks = FreshNetworks(partial(NETWORK, width=64), MEAN, STD)
    pixels = condensed.pixels(slice(None))
    result = evaluate(
        pixels, condensed.labels, test.images, test.labels, networks, recipe, runs=options.networks, seed=seed
    )
    return [round(accuracy, 4) for accuracy in result.last]


def generated(row: Row, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train and freeze sets of every size."""
    start = time.process_time()
    with TemporaryDirectory() as folder:
        module = generator(row, options.steps, seed, folder)
    seconds = round(time.process_time() - start, 1)
    return {str(ipc): evaluate_set(module.export(ipc, seed), options, seed) for ipc in IPC} | {"cpu_seconds": seconds}


def real(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Draw real images."""
    source = load_digits_split(train=True)
    whole = CondensedSet(source.images, source.labels)
    return {str(ipc): evaluate_set(whole.subset(ipc, seed), options, seed) for ipc in IPC}


def packaged(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Take the set that the package ships."""
    return {"1": evaluate_set(CondensedSet.load("package:digits-dm-1ipc.safetensors"), options, seed)}


def table() -> dict[str, Callable[[argparse.Namespace, int], dict[str, Any]]]:
    """Return what makes and judges the sets of every row."""
    controls = {"random real images": real, "DM, packaged": packaged}
    return controls | {name: partial(generated, row) for name, row in ROWS.items()}


def main() -> None:
    """Run all rows with all seeds and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="generative")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=[*table()], default=[*table()])
    parser.add_argument("--steps", type=int, default=100, help="steps in an epoch of the generator")
    parser.add_argument("--epochs", type=int, default=300, help="epochs in which a set is judged")
    parser.add_argument("--networks", type=int, default=5, help="networks that judge a set")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    base = {name: getattr(options, name) for name in ("steps", "epochs", "networks")}
    path = common.RESULTS / f"{options.name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    if path.exists() and (found := json.loads(path.read_text())["base"]) != base:
        raise SystemExit(f"{path} holds runs of {found}, this one is of {base}: give it another --name")
    for seed in options.seeds:
        for name in options.rows:
            runs = rows.setdefault(name, {"runs": {}})["runs"]
            if str(seed) in runs:
                continue
            runs[str(seed)] = table()[name](options, seed)
            for ipc in (ipc for ipc in map(str, IPC) if ipc in runs[str(seed)]):
                # Over seeds, each of which stands for the mean of its networks.
                rows[name][ipc] = spread([sum(run[ipc]) / len(run[ipc]) for run in runs.values()])
            print(f"{name:44} seed {seed}: {runs[str(seed)]}", flush=True)
            common.write(options.name, {"base": base, "ipc": list(IPC), "rows": rows})


if __name__ == "__main__":
    main()
