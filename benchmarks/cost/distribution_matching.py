"""What an iteration of distribution matching costs: ours beside one class at a time in one batch, and by size.

``speed`` lets both take turns in one process, on the same real images and with the same network, and compares their
class means. ``sizes`` gives seconds and peak memory against images per class and classes, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import result_files
from benchmarks.support.interleaved_steps import Lane, Turn, by_clock, compare, one_turn
from benchmarks.support.plain_loops import MEAN, STD
from benchmarks.support.processes import resident_megabytes, run_script
from lightning_condkd.augment import SiameseAugment
from lightning_condkd.condensation import DistributionMatching, RealImages
from lightning_condkd.condensation.parts.class_matching import draw_rows
from lightning_condkd.models import ConvNet, FreshNetworks
from lightning_condkd.randomness import Draw


class Task:
    """A condensed set beside random images that stand for real ones: what is in them does not change the time."""

    def __init__(self, classes: int, ipc: int, real_batch: int, part: int | None = None) -> None:
        data = torch.rand(classes, 2 * real_batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)).flatten(0, 1)
        data = (255 * data).to(torch.uint8)
        rows = list(torch.arange(len(data)).split(2 * real_batch))
        self.real = RealImages(lambda chosen: data[chosen].float() / 255, rows)
        self.labels = torch.arange(classes).repeat_interleave(ipc)
        self.pixels = torch.rand(len(self.labels), 3, 32, 32, requires_grad=True)
        self.method = DistributionMatching(
            FreshNetworks(partial(ConvNet, classes), MEAN, STD),
            augment=SiameseAugment(),
            real_batch=real_batch,
            classes_per_part=part,
        )
        self.optimizer = torch.optim.SGD([self.pixels], lr=0.04, momentum=0.5)
        self.step = 0

    def ours(self) -> None:
        """Take one iteration of the package's."""
        self.optimizer.zero_grad()
        for terms in self.method.losses(self.pixels, self.labels, self.real, Draw(0, self.step)):
            terms.total().backward()
        self.optimizer.step()
        self.step += 1

    def by_class(self) -> None:
        """Take the same iteration one class at a time, each class in one batch, one backward at the end."""
        self.optimizer.zero_grad()
        self.loss_by_class(Draw(0, self.step)).backward()
        self.optimizer.step()
        self.step += 1

    def loss_by_class(self, draw: Draw) -> Tensor:
        """Return the loss of that."""
        method = self.method
        observer = method.networks.make(draw.generator("network")).requires_grad_(False)
        loss = torch.zeros(())
        for label, rows in enumerate(draw_rows(self.real, method.real_batch, draw)):
            real = method._view(self.real.pixels(rows), label, draw)
            learned = method._view(self.pixels[self.labels == label], label, draw)
            embeddings = [observer(view, embedding=True).embedding for view in (real, learned)]
            loss = loss + (embeddings[0].detach().mean(0) - embeddings[1].mean(0)).square().sum()
        return loss


def speed(real_batch: int, warmup: int, turns: int) -> dict[str, Any]:
    """Let both schemes take turns."""
    tasks = [Task(10, 10, real_batch) for _ in range(2)]
    lanes: dict[str, Lane] = {"ours": tasks[0].ours, "class by class": tasks[1].by_class}
    taken = [Turn(None, False, *by_clock(one_turn(lanes, turn))) for turn in range(warmup + turns)]
    return {**compare(taken[warmup:], [("class by class", "ours")]), "relative_difference_of_means": agree(tasks[0])}


def agree(task: Task) -> float:
    """Return how far the real class means of both schemes are apart, relative to their size."""
    draw, method = Draw(0, 99), task.method
    observer = method.networks.make(draw.generator("network")).requires_grad_(False)
    rows = draw_rows(task.real, method.real_batch, draw)
    views = [method._view(task.real.pixels(chosen), label, draw) for label, chosen in enumerate(rows)]
    with torch.no_grad():
        whole = torch.stack([observer(view, embedding=True).embedding.mean(0) for view in views])
        observer.to(memory_format=torch.channels_last)
        images = [task.real.pixels(chosen) for chosen in rows]
        chunked = method._real_means(observer, images, list(range(len(rows))), draw)
    return float((whole - chunked).norm() / whole.norm())


def size(classes: int, ipc: int, real_batch: int, part: int | None, turns: int) -> dict[str, float]:
    """Return seconds of an iteration and the peak of memory of this process."""
    task = Task(classes, ipc, real_batch, part)
    base = resident_megabytes(peak=False)
    task.ours()
    seconds = []
    for _ in range(turns):
        start = time.process_time()
        task.ours()
        seconds.append(time.process_time() - start)
    return {
        "cpu_seconds": round(sorted(seconds)[len(seconds) // 2], 3),
        "peak_megabytes": round(resident_megabytes()),
        "megabytes_before": round(base),
    }


def sizes(turns: int) -> list[dict[str, Any]]:
    """Measure every size in a process of its own."""
    table = [(10, 1), (10, 10), (10, 50), (100, 1), (100, 10), (100, 50)]
    rows = [(classes, ipc, 64, part) for classes, ipc in table for part in (10, classes) if part <= classes]
    results = []
    for row in dict.fromkeys(rows):
        flags = [f"--{name}={value}" for name, value in zip(SIZE, row, strict=True)]
        results.append(dict(zip(SIZE, row, strict=True)) | run_script(__file__, ["size", *flags, f"--turns={turns}"]))
        print(results[-1], flush=True)
    return results


SIZE = ("classes", "ipc", "real-batch", "part")


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=("speed", "sizes", "size"))
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    for name in SIZE:
        parser.add_argument(f"--{name}", type=int, default=64 if name == "real-batch" else 10)
    options = parser.parse_args()
    if options.suite == "size":
        row = (options.classes, options.ipc, options.real_batch, options.part)
        print(json.dumps(size(*row, options.turns)))
        return
    if options.suite == "speed":
        content: Any = {batch: speed(batch, options.warmup, options.turns) for batch in (64, 256)}
    else:
        content = sizes(options.turns)
    result_files.write(f"cost-condensation-{options.suite}", {options.suite: content})
    print(json.dumps(content))


if __name__ == "__main__":
    main()
