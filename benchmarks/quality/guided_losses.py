"""FitNet beside KD as the student's loss, on images mixed in and guided, at the budget of `ablation.py`, CIFAR-10.

All rows have the same student steps, and KD at the temperature of Fast's code, alone or beside another loss. The rows
with KD alone are those of `ablation.py`. A run that the result file already holds is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.quality.ablation import run
from benchmarks.quality.mixed_views import BASE, IMAGES
from benchmarks.support.sweep import sweep

DISTILLATION = "--model.init_args.distillation"


def beside_kd(loss: str, weight: float) -> list[str]:
    """Return the flags that sum KD and a loss with a weight."""
    kd = "{class_path: KLDistillation, init_args: {temperature: 20.0}}"
    losses, weights = f"{{kd: {kd}, loss: {loss}}}", f"{{kd: 1.0, loss: {weight}}}"
    return [f"{DISTILLATION}={{class_path: WeightedLosses, init_args: {{losses: {losses}, weights: {weights}}}}}"]


FITNET = beside_kd("FitNet", 100.0)


def rows() -> dict[str, list[str]]:
    """Return the flags of every row."""
    return {f"{name}, 100 FitNet + KD": [*IMAGES[name], *FITNET] for name in ("Fast + condensed", "Fast*")}


def main() -> None:
    """Run every row with every seed and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=rows(), metavar="ROW", help="such as 'Fast*, 100 FitNet + KD'")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each if more than one")
    options = parser.parse_args()
    chosen = {name: rows()[name] for name in options.only or rows()}
    sweep("guided-losses-cifar10", BASE, chosen, options.seeds, options.jobs, run)


if __name__ == "__main__":
    main()
