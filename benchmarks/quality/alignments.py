"""Kinds of alignment on three methods, at the small budgets of `inversion_methods.py`: discriminator, or moments.

All rows of a suite store the same number of images, mix in the condensed ones and have the same student steps, loss,
augmentation and schedule. A run that the result file already holds is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.quality.inversion_methods import ALIGNMENT, MIX, SAME_LOSS, SUITES, own_flags, run
from benchmarks.support.sweep import sweep

METHODS = ("fast", "cmi", "nayer")


def by_moments(**arguments: object) -> list[str]:
    """Return the flags of an alignment by moments."""
    given = (
        f"--{ALIGNMENT}.init_args.{name.replace('__', '.init_args.')}={value}" for name, value in arguments.items()
    )
    return [f"--{ALIGNMENT}=MomentAlignment", *given]


KINDS = {
    "none": [f"--{ALIGNMENT}=null"],
    "AC-GAN 5": [
        f"--{ALIGNMENT}=FeatureAlignment",
        f"--{ALIGNMENT}.init_args.discriminator=ACGANDiscriminator",
        f"--{ALIGNMENT}.init_args.weight=5",
    ],
    "MMD 1": by_moments(weight=1),
    "MMD 100": by_moments(weight=100),
    "MMD 100 + logits (PGDI)": by_moments(weight=100, logits_weight=1),
    "logits 1": by_moments(weight=0, logits_weight=1),
    "characteristic function 30": by_moments(
        distance="CharacteristicFunction", distance__frequencies=512, features="embedding", weight=30
    ),
}


def rows(suite: str) -> dict[str, list[str]]:
    """Return the flags of every row."""
    methods = {method: own_flags(method, SUITES[suite].methods[method], SAME_LOSS) for method in METHODS}
    union = f"--{MIX}=union"
    return {f"{method}, {kind}": [*own, union, *KINDS[kind]] for method, own in methods.items() for kind in KINDS}


def main() -> None:
    """Run a suite and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=("digits", "cifar10"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each if more than one")
    options = parser.parse_args()
    chosen = [f"{method}, {kind}" for method in options.methods for kind in options.kinds]
    table = {row: flags for row, flags in rows(options.suite).items() if row in chosen}
    base = [f"--{flag}" for flag in SUITES[options.suite].base]
    sweep(f"alignments-{options.suite}", base, table, options.seeds, options.jobs, run)


if __name__ == "__main__":
    main()
