"""Every inversion method plain, mixed and guided, at one equal small budget of images: accuracy, and where the images lie.

A run that its result file already holds is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sweep import sweep

INVERSION = "--model.init_args.inversion.init_args"
PLAIN = "--model.init_args.alignment=null"
MIX = "--data.init_args.mix"


def rows(steps: dict[str, int], share: str) -> dict[str, list[str]]:
    """Return the flags of every method and way; ``share`` mixes condensed images in."""
    table = {}
    for method, count in steps.items():
        flags = [f"--config=configs/methods/{method}.yaml", *_budget(method, count)]
        table[method] = [*flags, PLAIN, f"{MIX}=0.0"]
        if method not in ("noise", "real_subset"):
            table[f"{method} + condensed"] = [*flags, PLAIN, f"{MIX}={share}"]
            table[f"{method}*"] = [*flags, f"{MIX}={share}"]
    return table


def _budget(method: str, steps: int) -> list[str]:
    return [f"{INVERSION}.cadence.{name}={value}" for name, value in (("synthesis_steps", steps), ("repeats", 1))]


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


SUITES: dict[str, list[str]] = {
    "digits": [
        "--config=configs/quickstart.yaml",
        "--trainer.callbacks=[]",
        "--trainer.max_epochs=11",
        "--model.init_args.alignment.init_args.weight=5",
    ],
}
