"""Rows of the paper's tables at one equal budget, over seeds, through the command line.

A run that its result file already holds is not repeated: a sweep that stops is started again with the same command.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support.processes import run_command
from benchmarks.support.sweep import sweep

PLAIN = ["--model.init_args.alignment=null"]
DISCRIMINATOR = "--model.init_args.alignment.init_args.discriminator"
WEIGHT = "--model.init_args.alignment.init_args.weight"
INVERSION = "--model.init_args.inversion"
MIX = "--data.init_args.mix"


def baseline(name: str, synthesis_steps: int) -> list[str]:
    """Return the flags that put another source of images in Fast's place; batch size and student steps stay."""
    return [f"{INVERSION}={name}", f"{INVERSION}.init_args.cadence.synthesis_steps={synthesis_steps}", *PLAIN]


def rows() -> dict[str, list[str]]:
    """Return the flags of every row."""
    table = {
        "condensed only": baseline("NoInversion", 0),
        "noise": [*baseline("SmoothNoise", 1), f"{MIX}=0.0"],
        "Fast": [*PLAIN, f"{MIX}=0.0"],
        "Fast + condensed": PLAIN,
    }
    for name in ("ACGANDiscriminator", "ProjectionDiscriminator", "UnconditionalDiscriminator"):
        for weight in (1, 5, 20, 60):
            table[f"Fast* {name.removesuffix('Discriminator').lower()} {weight}"] = [
                f"{DISCRIMINATOR}={name}",
                f"{WEIGHT}={weight}",
            ]
    return table


SUITES: dict[str, list[str]] = {
    "digits": ["--config=configs/quickstart.yaml", "--trainer.callbacks=[]"],
    "cifar10": ["--config=configs/cifar10/fast.yaml"],
}


def run(arguments: list[str], threads: int) -> dict[str, Any]:
    """Fit once; return the summary and the accuracy after every validation."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
        run_command(["fit", *arguments, *quiet], threads)
        summary = json.loads(next(Path(folder).rglob("summary.json")).read_text())
        for path in ("best_checkpoint", "checkpoints"):  # gone with the folder
            summary.pop(path, None)
        with next(Path(folder).rglob("metrics.csv")).open() as table:
            curve = [float(row["val/student_accuracy"]) for row in csv.DictReader(table) if row["val/student_accuracy"]]
    return summary | {"curve": [round(value, 4) for value in curve]}


def main() -> None:
    """Run a suite and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="names of rows")
    parser.add_argument("--name", help="name of the result file")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each if more than one")
    parser.add_argument("--extra", nargs="*", default=[], help="flags for every row, without the leading --")
    options = parser.parse_args()
    base = [*SUITES[options.suite], *(f"--{flag}" for flag in options.extra)]
    name = options.name or options.suite
    chosen = {row: flags for row, flags in rows().items() if not options.only or row in options.only}
    sweep(name, base, chosen, options.seeds, options.jobs, run)


if __name__ == "__main__":
    main()
