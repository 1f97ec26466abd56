"""What do networks cost that are trained on a condensed set in one pass, compared with one after the other?

Both take turns in one process, in reversed order every second time; a turn is a whole evaluation of a few epochs with
one test image. A ratio below 1 speaks for the batch.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import result_files
from benchmarks.support.interleaved_steps import Lane, by_clock, one_turn
from benchmarks.support.spread import quartiles
from lightning_condkd.augment import SiameseAugment
from lightning_condkd.evaluation.fresh_training import evaluate
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.models import ConvNet
from lightning_condkd.models.fresh_networks import FreshNetworks

# name: image size, channels, depth, width, images of the set, epochs in a turn
CASES = {
    "digits, width 16, 10 images": (8, 1, 2, 16, 10, 30),
    "digits, width 128, 100 images": (8, 1, 2, 128, 100, 3),
    "32 px, width 128, 10 images": (32, 3, 3, 128, 10, 1),
    "32 px, width 128, 100 images": (32, 3, 3, 128, 100, 1),
}


def lane(case: str, batched: bool, options: argparse.Namespace) -> Lane:
    """Return a short evaluation."""
    size, channels, depth, width, number, epochs = CASES[case]
    made = FreshNetworks(partial(ConvNet, image_size=size, in_channels=channels, depth=depth, width=width))
    images = torch.rand(number, channels, size, size, generator=torch.Generator().manual_seed(0))
    labels, recipe = torch.arange(number) % 10, Recipe(epochs=epochs, augment=SiameseAugment())
    shared: dict[str, Any] = {"runs": options.runs, "device": options.device, "batched": batched}
    return partial(evaluate, images, labels, images[:1], labels[:1], made, recipe, **shared)


def measure(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let the batch and the loop take turns."""
    lanes = {"batch": lane(case, True, options), "loop": lane(case, False, options)}
    turns = [by_clock(one_turn(lanes, turn)) for turn in range(options.warmup + options.turns)][options.warmup :]
    clocks = {}
    for clock, rows in zip(("wall", "cpu"), zip(*turns, strict=True), strict=True):
        seconds = {name: quartiles([row[name] for row in rows]) for name in lanes}
        clocks[clock] = {"seconds": seconds, "batch / loop": quartiles([row["batch"] / row["loop"] for row in rows])}
    return clocks


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    options = parser.parse_args()
    results = {}
    for case in options.cases:
        results[case] = measure(case, options)
        print(case, *(f"{clock} {figures['batch / loop']}" for clock, figures in results[case].items()), flush=True)
    settings = {"runs": options.runs, "turns": options.turns, "device": options.device}
    result_files.write("evaluator", {"command": sys.argv[1:], **settings, "cases": results})


if __name__ == "__main__":
    main()
