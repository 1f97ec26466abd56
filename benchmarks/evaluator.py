"""What do networks cost that are trained on a condensed set in one pass, compared with one after the other?

Both take turns in one process, in reversed order every second time; a turn is a whole evaluation of a few epochs with
one test image. A ratio below 1 speaks for the batch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
from cost_lanes import spread

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


def lane(case: str, batched: bool, options: argparse.Namespace) -> Callable[[], object]:
    """Return a short evaluation."""
    size, channels, depth, width, number, epochs = CASES[case]
    made = FreshNetworks(partial(ConvNet, image_size=size, in_channels=channels, depth=depth, width=width))
    images = torch.rand(number, channels, size, size, generator=torch.Generator().manual_seed(0))
    labels, recipe = torch.arange(number) % 10, Recipe(epochs=epochs, augment=SiameseAugment())
    shared: dict[str, Any] = {"runs": options.runs, "device": options.device, "batched": batched}
    return partial(evaluate, images, labels, images[:1], labels[:1], made, recipe, **shared)


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return seconds on the wall and of this process's CPU."""
    start = time.perf_counter(), time.process_time()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measure(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let the batch and the loop take turns."""
    lanes = {"batch": lane(case, True, options), "loop": lane(case, False, options)}
    turns = []
    for turn in range(options.warmup + options.turns):
        order = list(lanes)[::-1] if turn % 2 else list(lanes)
        turns.append({name: seconds(lanes[name]) for name in order})
    turns = turns[options.warmup :]
    clocks = {}
    for index, clock in enumerate(("wall", "cpu")):
        taken = {name: [turn[name][index] for turn in turns] for name in lanes}
        ratios = [batch / loop for batch, loop in zip(taken["batch"], taken["loop"], strict=True)]
        seconds_of = {name: spread(values) for name, values in taken.items()}
        clocks[clock] = {"seconds": seconds_of, "batch / loop": spread(ratios)}
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
    command = f"python benchmarks/evaluator.py --turns {options.turns} --runs {options.runs} --device {options.device}"
    content = {"command": command, "runs": options.runs, "turns": options.turns, "device": options.device}
    common.write("evaluator", {**content, "cases": results})


if __name__ == "__main__":
    main()
