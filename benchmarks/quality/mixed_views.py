"""Views that mix the images of a batch (mixup, CutMix), on condensed images alone, mixed in and guided, CIFAR-10.

All rows have the same student steps. A run that the result file already holds is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.quality.ablation import PLAIN, SUITES, baseline, run
from benchmarks.support.sweep import sweep

IMAGES = {
    "condensed only": baseline("NoInversion", 0),
    "Fast + condensed": PLAIN,
    "Fast*": [],
}
VIEWS = {
    "plain": [],
    "mixup": ["--model.init_args.mixing=Mixup"],
    "CutMix": ["--model.init_args.mixing=CutMix"],
}
BASE = [*SUITES["cifar10"], "--trainer.precision=bf16-mixed"]


def rows() -> dict[str, list[str]]:
    """Return the flags of every row."""
    return {f"{name}, {view}": [*IMAGES[name], *VIEWS[view]] for name in IMAGES for view in VIEWS}


def main() -> None:
    """Run every row with every seed and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--only", nargs="+", choices=rows(), metavar="ROW", help="names of rows, such as 'Fast*, mixup'"
    )
    parser.add_argument("--name", default="mixed-views-cifar10", help="name of the result file")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each if more than one")
    parser.add_argument("--extra", nargs="*", default=[], help="flags for every row, without the leading --")
    options = parser.parse_args()
    base = [*BASE, *(f"--{flag}" for flag in options.extra)]
    chosen = {name: rows()[name] for name in options.only or rows()}
    sweep(options.name, base, chosen, options.seeds, options.jobs, run)


if __name__ == "__main__":
    main()
