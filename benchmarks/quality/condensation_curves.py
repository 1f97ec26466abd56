"""How good a condensed set is while it is learned: fresh networks are trained on the set so far.

A curve that the result file already holds is not learned again. The set is that of ``condensed_sets.py`` with the same
seed; the evaluations on the way do not change it.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.quality import condensed_sets
from benchmarks.support import result_files
from benchmarks.support.processes import run_command
from benchmarks.support.spread import mean_and_deviation

AUGMENT = "recipe.augment"


class Suite(NamedTuple):
    """How sets are evaluated on the way.

    Args:
        every: iterations between two evaluations, by row of ``condensed_sets.py``.
        evaluation: arguments of the callback.
    """

    every: dict[str, int]
    evaluation: list[str]


SUITES = {
    "digits": Suite(
        {"DM 1": 100, "DC 1": 100, "DSA 1": 100, "MTT 1": 100, "DM 10": 100, "MTT 10": 100},
        ["recipe.epochs=300", f"{AUGMENT}.policy=color_crop_cutout_scale_rotate", f"{AUGMENT}.fill=0.0"],
    ),
    "cifar10": Suite({"DM 10": 25, "DSA 10": 20, "DC 10": 20}, ["recipe.epochs=60", f"{AUGMENT}.fill=0.47"]),
}


def learn(suite: str, row: str, seed: int) -> list[list[float]]:
    """Return pairs of iteration and accuracy."""
    every, evaluation = SUITES[suite].every[row], SUITES[suite].evaluation
    callback = [f"every_n_steps={every}", "runs=2", f"{AUGMENT}=SiameseAugment", *evaluation]
    flags = ["trainer.callbacks+=CondensedAccuracy", *(f"trainer.callbacks.{flag}" for flag in callback)]
    with tempfile.TemporaryDirectory() as folder:
        flags += ["trainer.logger=CSVLogger", f"trainer.logger.save_dir={folder}", f"seed_everything={seed}"]
        flags += [f"model.init_args.output={folder}/set.safetensors", f"trainer.default_root_dir={folder}"]
        command = [*condensed_sets.SUITES[suite].sets[row], *(f"--{flag}" for flag in flags)]
        run_command([*command, "--trainer.enable_progress_bar=false"])
        with next(Path(folder).rglob("metrics.csv")).open() as table:
            evaluated = [line for line in csv.DictReader(table) if line.get("condensed/accuracy")]
    return [[int(line["step"]), round(float(line["condensed/accuracy"]), 4)] for line in evaluated]


def main() -> None:
    """Learn all sets of a suite and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="names of sets, as 'DM 10'")
    options = parser.parse_args()
    if options.suite == "digits":
        condensed_sets.make_experts()
    name, suite = f"curves-{options.suite}", SUITES[options.suite]
    rows = result_files.read(name, {"rows": {}})["rows"]
    for seed, row in ((seed, row) for seed in options.seeds for row in options.only or suite.every):
        entry = rows.setdefault(row, {"runs": {}})
        if str(seed) in entry["runs"]:
            continue
        entry["runs"][str(seed)] = learn(options.suite, row, seed)
        entry.setdefault("origins", {})[str(seed)] = result_files.origin()
        steps = zip(*entry["runs"].values(), strict=True)
        entry["mean"] = [[step[0][0], mean_and_deviation([accuracy for _, accuracy in step])] for step in steps]
        print(f"{row:10} seed {seed}: {entry['runs'][str(seed)]}", flush=True)
        result_files.write(name, {"judge": suite.evaluation, "networks": 2, "test_images": 2000, "rows": rows})


if __name__ == "__main__":
    main()
