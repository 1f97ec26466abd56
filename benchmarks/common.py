"""What every result file says about where it comes from."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def origin() -> dict[str, str]:
    """Return commit and version of torch: for each run of a file that grows over days."""
    return {"commit": _commit() if shutil.which("git") else "", "torch": version("torch")}


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def environment() -> dict[str, Any]:
    """Return commit, versions and class of the machine."""
    packages = ("torch", "torchvision", "lightning", "kornia", "torchmetrics")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return {
        "commit": origin()["commit"],
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "machine": f"{device}, {platform.machine()}",
        "threads": torch.get_num_threads(),
    }


def run(command: list[str], threads: int = 1) -> float:
    """Run a command of the package in a process of its own; return its CPU-seconds, whatever else runs beside it.

    Args:
        command: its arguments, such as ``fit``.
        threads: of that process.

    Raises:
        RuntimeError: with the end of what it said, if it fails.
    """
    variables = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    line = [sys.executable, "-m", "lightning_condkd", *command]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(line, env=variables, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read()[-3000:])
    return usage.ru_utime + usage.ru_stime


def write(name: str, content: dict[str, Any]) -> Path:
    """Write a result file.

    Args:
        name: its name without ending.
        content: what was measured.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**content, "environment": environment()}, indent=1) + "\n")
    return path
