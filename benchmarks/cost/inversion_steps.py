"""What an image costs by method: seconds of a synthesis step and of a block, plain and guided, and the peak of memory.

Steps of all methods take turns in one process, plain and guided side by side; memory is the peak of a process of its
own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import result_files
from benchmarks.support.interleaved_steps import TrainerLane, compare, take_turns
from benchmarks.support.plain_loops import MEAN, STD
from benchmarks.support.processes import resident_megabytes, run_script
from lightning_condkd import inversion
from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.data import CondensedDataModule, CondensedSet
from lightning_condkd.models import CifarResNet, Observer
from lightning_condkd.modules import CondKD
from lightning_condkd.rounds import Cadence

METHODS = ("SmoothNoise", "Fast", "DeepInversion", "CMI", "DAFL", "ZSKT", "DFQ", "DFAD", "PREDFKD")


def lane(name: str, guided: bool, options: argparse.Namespace, folder: Path) -> TrainerLane:
    """Return a fit that does nothing but synthesis steps, one a block for live methods and five for the others."""
    torch.manual_seed(0)
    condensed = CondensedSet(torch.rand(100, 3, 32, 32), torch.arange(100) % 10)
    method = getattr(inversion, name)(batch_size=options.batch_size, cadence=Cadence(1, 0, repeats=1000))
    alignment = FeatureAlignment() if guided else None
    model = CondKD(Observer(CifarResNet(20), MEAN, STD), CifarResNet(20, width=8), method, alignment, seed=0)
    mix = "union" if method.source == "bank" else 0.0
    return TrainerLane(
        model,
        CondensedDataModule(condensed, mix=mix, bank_capacity=1000),
        accelerator="cpu",
        devices=1,
        max_epochs=10_000,
        default_root_dir=folder / f"{name} {guided}",
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def seconds(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time a step of every method in turn."""
    lanes = {
        f"{n}{'*' if guided else ''}": lane(n, guided, options, folder) for n in METHODS for guided in (False, True)
    }
    turns = take_turns(lanes, {}, options.warmup + options.turns)[options.warmup :]
    pairs = [(f"{name}*", name) for name in METHODS] + [(name, "Fast") for name in METHODS if name != "Fast"]
    for one in lanes.values():
        one.close()
    return compare(turns, pairs)


def published_steps() -> dict[str, float]:
    """Return the synthesis steps that an image of the defaults costs: those of its block, over its batch."""
    methods = {name: getattr(inversion, name)() for name in METHODS}
    return {name: method.cadence.synthesis_steps for name, method in methods.items()}


def memory(name: str, guided: bool, options: argparse.Namespace) -> float:
    """Return the peak of resident memory of a process that takes a few steps, in MB."""
    flags = ["--peak", f"{name}{'*' if guided else ''}", "--batch-size", str(options.batch_size)]
    return float(run_script(__file__, flags))


def peak(name: str, options: argparse.Namespace) -> None:
    """Print this process's peak after four steps of a method."""
    with tempfile.TemporaryDirectory() as folder:
        one = lane(name.rstrip("*"), name.endswith("*"), options, Path(folder))
        for _ in range(4):
            one()
        one.close()
    print(resident_megabytes())


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--peak", help="used by the suite itself")
    options = parser.parse_args()
    if options.peak:
        peak(options.peak, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        timed = seconds(options, Path(folder))
    peaks = {
        f"{n}{'*' if guided else ''}": round(memory(n, guided, options)) for n in METHODS for guided in (False, True)
    }
    base = round(memory("SmoothNoise", False, options))
    content = {"batch_size": options.batch_size, "step": timed, "synthesis_steps_by_default": published_steps()}
    result_files.write("cost-methods", {**content, "peak_megabytes": peaks, "peak_megabytes_of_noise": base})
    print(json.dumps(peaks))


if __name__ == "__main__":
    main()
