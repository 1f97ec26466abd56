"""Every inversion method plain, mixed and guided, at one equal small budget of images: accuracy and where the images lie.

Each way of a method gets the same number of stored images, student steps, augmentation and schedule; PRE-DFKD stores none
and renders as many for its own steps. A run that its result file already holds is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from sweep import sweep

INVERSION = "model.init_args.inversion.init_args"
ALIGNMENT = "model.init_args.alignment"
MIX = "data.init_args.mix"


class Suite(NamedTuple):
    """One task at one budget.

    Args:
        base: flags of every run, without the leading ``--``.
        methods: flags of each method, the same way; its recipe in ``configs/methods`` comes before them.
    """

    base: list[str]
    methods: dict[str, list[str]]


def small(steps: int, **arguments: Any) -> list[str]:
    """Return flags of a method's arguments: ``steps`` of synthesis in every round, and what else differs."""
    cadence = {"cadence.synthesis_steps": steps, "cadence.repeats": 1, "cadence.distill_steps": 60}
    return [f"{INVERSION}.{n}={v}" for n, v in {**cadence, "cadence.warmup_rounds": 1, **arguments}.items()]


def ways(method: str, flags: list[str]) -> dict[str, list[str]]:
    """Return the rows of a method: plain, with condensed images mixed in, guided as well."""
    own = [f"--config=configs/methods/{method}.yaml", *(f"--{flag}" for flag in flags)]
    share = "0.1" if method == "pre_dfkd" else "union"
    mixed = [*own, f"--{MIX}={share}"]
    plain = {method: [*own, f"--{ALIGNMENT}=null", f"--{MIX}=0.0"]}
    if method in ("noise", "real_subset"):
        return plain
    return {**plain, f"{method} + condensed": [*mixed, f"--{ALIGNMENT}=null"], f"{method}*": mixed}


def run(arguments: list[str], threads: int) -> dict[str, Any]:
    """Fit once in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).with_name("mechanism_run.py")
        quiet = [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
        command = [sys.executable, str(script), *arguments, *quiet]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return dict(json.loads(done.stdout))
