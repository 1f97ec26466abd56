"""What a step costs: through the Trainer against a bare loop, with alignment against without, by size of the bank."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import result_files
from benchmarks.support.interleaved_steps import ThreadLane, TrainerLane, compare, in_blocks, take_turns
from benchmarks.support.plain_loops import MEAN, STD, PlainLoops
from benchmarks.support.processes import run_script
from benchmarks.support.spread import quartiles
from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.augment import DifferentiableAugment
from lightning_condkd.data import CondensedDataModule, CondensedSet
from lightning_condkd.inversion import Fast
from lightning_condkd.models import CifarResNet, Observer
from lightning_condkd.modules import CondKD
from lightning_condkd.rounds import Cadence

SYNTHESIS_STEPS, DISTILL_STEPS = 5, 20


class Lanes:
    """Makes the lanes of a suite from the options of the command line."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self._plain = PlainLoops(options.device, options.precision == "bf16-mixed")
        self.made: list[TrainerLane] = []

    def distillation(self, augment: bool) -> ThreadLane:
        """Return the bare distillation step."""
        return ThreadLane(self._plain.distillation(self.options.batch_size, augment))

    def synthesis(self) -> ThreadLane:
        """Return the bare synthesis step."""
        return ThreadLane(self._plain.synthesis(self.options.synthesis_batch_size))

    def trainer(self, cadence: Cadence, bank: int, alignment: FeatureAlignment | None = None) -> TrainerLane:
        """Return a fit of ResNet-20 to its half-width sibling with a filled bank."""
        torch.manual_seed(0)
        condensed = CondensedSet(torch.rand(100, 3, 32, 32), torch.arange(100) % 10)
        datamodule = CondensedDataModule(condensed, batch_size=self.options.batch_size)
        if bank:
            images = torch.randint(256, (bank, 3, 32, 32), dtype=torch.uint8)
            datamodule.transfer_set.append(images, torch.arange(bank) % 10, round=0)
        teacher, student = Observer(CifarResNet(20), MEAN, STD), CifarResNet(20, width=8)
        inversion = Fast(cadence=cadence, batch_size=self.options.synthesis_batch_size)
        lane = TrainerLane(
            CondKD(teacher, student, inversion, alignment, seed=0),
            datamodule,
            accelerator="gpu" if self.options.device == "cuda" else "cpu",
            devices=1,
            precision=self.options.precision,
            max_epochs=10_000,
            default_root_dir=self.folder / str(len(self.made)),
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        self.made.append(lane)
        return lane


def steps(lanes: Lanes) -> dict[str, Any]:
    """Compare a step through the Trainer with its bare loop, for both phases of rounds of Fast."""
    options, cadence = lanes.options, Cadence(SYNTHESIS_STEPS, DISTILL_STEPS)
    plain = {augment: lanes.distillation(augment) for augment in (False, True)}
    turns = take_turns(
        {"trainer": lanes.trainer(cadence, bank=10_000)},
        {
            "synthesize": {"bare": lanes.synthesis()},
            "distill": {"bare": plain[False], "bare with crop and flip": plain[True]},
        },
        turns=cadence.length * (1 + options.rounds),
    )[cadence.length :]
    inner = [turn for turn in turns if turn.unit.phase == "distill" and not turn.ends_round]
    synthesis = [turn for turn in turns if turn.unit.phase == "synthesize"]
    ends = [turn.wall["trainer"] - turn.wall["bare"] for turn in turns if turn.ends_round]
    pairs = [("trainer", "bare")]
    return {
        "distillation": compare(inner, [*pairs, ("trainer", "bare with crop and flip")]),
        "synthesis": compare(synthesis, pairs),
        "synthesis_block": compare(in_blocks(synthesis, SYNTHESIS_STEPS), pairs),
        "end_of_round_milliseconds": quartiles([1e3 * surplus for surplus in ends], 2),
    }


def alignment(lanes: Lanes) -> dict[str, Any]:
    """Compare the synthesis step of Fast* with that of Fast."""
    cadence = Cadence(SYNTHESIS_STEPS, 0, repeats=1000)
    trainers = {
        "Fast": lanes.trainer(cadence, bank=0),
        "Fast* on the shared view": lanes.trainer(cadence, 0, FeatureAlignment()),
        "Fast* on a view of its own": lanes.trainer(cadence, 0, FeatureAlignment(augment=DifferentiableAugment())),
    }
    turns = take_turns(trainers, {}, SYNTHESIS_STEPS * (1 + lanes.options.rounds))[SYNTHESIS_STEPS:]
    pairs = [(name, "Fast") for name in trainers if name != "Fast"]
    return {"step": compare(turns, pairs), "block": compare(in_blocks(turns, SYNTHESIS_STEPS), pairs)}


def bank(lanes: Lanes) -> dict[str, Any]:
    """Compare the distillation step for banks of several sizes, and time what else touches the bank."""
    sizes, cadence = lanes.options.bank_sizes, Cadence(0, 100_000)
    trainers = {f"{size} images": lanes.trainer(cadence, size) for size in sizes}
    warmup = DISTILL_STEPS // 2
    bare = {"bare": lanes.distillation(augment=False)}
    turns = take_turns(trainers, {"distill": bare}, warmup + DISTILL_STEPS * lanes.options.rounds)[warmup:]
    first, *others = trainers
    pairs = [(name, first) for name in others] + [(name, "bare") for name in trainers]
    storage = {name: _storage(lane, lanes) for name, lane in trainers.items()}
    return {"distillation": compare(turns, pairs), "milliseconds_of": storage}


def _storage(lane: TrainerLane, lanes: Lanes) -> dict[str, Any]:
    memory, path = lane.model.transfer_set.bank, lanes.folder / "saved.ckpt"
    size = lanes.options.synthesis_batch_size
    images, labels = torch.rand(size, 3, 32, 32), torch.arange(size) % 10
    save = _milliseconds(lambda: lane.trainer.save_checkpoint(path))
    appends, saves = [], []
    for _ in range(5 + 3 * lanes.options.rounds):
        appends.append(_milliseconds(lambda: memory.append(images, labels, round=0)))
        saves.append(_milliseconds(lambda: lane.trainer.save_checkpoint(path)))
    return {
        f"append of {size} images": quartiles(appends, 2) | {"max": round(max(appends), 2)},
        "first checkpoint, with the whole bank": round(save, 2),
        "next checkpoints": quartiles(saves, 2),
        "checkpoint_megabytes": round(path.stat().st_size / 1e6, 2),
    }


def _milliseconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - start)


SUITES: dict[str, Callable[[Lanes], dict[str, Any]]] = {"steps": steps, "alignment": alignment, "bank": bank}


def work(options: argparse.Namespace, suite: str) -> dict[str, Any]:
    """Run one suite in this process."""
    warnings.filterwarnings("ignore", module="lightning")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        lanes = Lanes(options, Path(folder))
        result = SUITES[suite](lanes)
        for lane in lanes.made:
            lane.close()
    return {
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in (load, os.getloadavg()[0])],
        **result,
    }


def main() -> None:
    """Run suites and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="one run with each number")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--rounds", type=int, default=4, help="measured rounds, after one of warm-up")
    parser.add_argument("--batch-size", type=int, default=128, help="of distillation")
    parser.add_argument("--synthesis-batch-size", type=int, default=128)
    parser.add_argument("--bank-sizes", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument("--name", default="cost", help="name of the result file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options, options.suites[0])))
        return
    results: dict[str, list[dict[str, Any]]] = {suite: [] for suite in options.suites}
    for suite in options.suites:
        for threads in options.threads:
            results[suite].append(run_script(__file__, [*sys.argv[1:], "--suites", suite, "--worker"], threads))
            print(suite, json.dumps(results[suite][-1], indent=1), flush=True)
            result_files.write(options.name, {"command": sys.argv[1:], "settings": vars(options), "suites": results})


if __name__ == "__main__":
    main()
