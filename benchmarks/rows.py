"""Rows of the paper's tables at one equal budget, over seeds, through the command line.

A run that its result file already holds is not repeated: a sweep that stops is started again with the same command.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import common

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
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lightning_condkd", "fit", *arguments]
        command += [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        summary = json.loads(next(Path(folder).rglob("summary.json")).read_text())
        with next(Path(folder).rglob("metrics.csv")).open() as table:
            curve = [float(row["val/student_accuracy"]) for row in csv.DictReader(table) if row["val/student_accuracy"]]
    return summary | {"curve": [round(value, 4) for value in curve]}


def spread(values: list[float]) -> dict[str, float]:
    """Return mean and sample standard deviation in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(100 * statistics.mean(values), 2), "std": round(100 * deviation, 2)}


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
    tasks = [(row, seed) for seed in options.seeds for row in chosen if not _done(name, base, row, chosen[row], seed)]
    threads = 1 if options.jobs > 1 else os.cpu_count() or 1
    writing = Lock()

    def job(task: tuple[str, int]) -> None:
        row, seed = task
        summary = run([*base, *chosen[row], f"--seed_everything={seed}"], threads)
        print(f"{row:32} seed {seed}: last {summary['student_accuracy_last']:.4f}", flush=True)
        with writing:
            _add(name, base, row, chosen[row], summary)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(job, tasks))


def _load(name: str, base: list[str]) -> dict[str, Any]:
    path = common.RESULTS / f"{name}.json"
    content = json.loads(path.read_text()) if path.exists() else {"base": base, "rows": {}}
    if content["base"] != base:
        raise SystemExit(f"{path} holds runs of {content['base']}, this sweep is of {base}: give it another --name")
    return {"base": base, "rows": content["rows"]}


def _done(name: str, base: list[str], row: str, flags: list[str], seed: int) -> bool:
    found = _load(name, base)["rows"].get(row, {"flags": flags, "runs": {}})
    if found["flags"] != flags:
        raise SystemExit(f"the row {row!r} of {name}.json has flags {found['flags']}, not {flags}: give another --name")
    return str(seed) in found["runs"]


def _add(name: str, base: list[str], row: str, flags: list[str], summary: dict[str, Any]) -> None:
    content = _load(name, base)
    entry = content["rows"].setdefault(row, {"flags": flags, "runs": {}})
    entry["runs"][str(summary["seed"])] = summary
    for what in ("last", "best"):
        entry[what] = spread([one[f"student_accuracy_{what}"] for one in entry["runs"].values()])
    common.write(name, content)


if __name__ == "__main__":
    main()
