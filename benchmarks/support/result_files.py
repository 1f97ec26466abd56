"""Result files, and what each says about where it comes from."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lightning_condkd.writing import write_atomic

RESULTS = Path(__file__).resolve().parents[1] / "results"


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


def read(name: str, default: dict[str, Any]) -> dict[str, Any]:
    """Return what a result file holds.

    Args:
        name: its name without ending.
        default: returned where there is no such file.
    """
    path = RESULTS / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else default
    return content


def write(name: str, content: dict[str, Any]) -> None:
    """Write a result file.

    Args:
        name: its name without ending.
        content: what was measured.
    """
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**content, "environment": environment()}, indent=1) + "\n"
    write_atomic(RESULTS / f"{name}.json", text.encode())
