"""How the tests of this folder start processes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.distributed import jobs

ROOT = Path(__file__).parents[2]
JOBS = jobs.__name__
# Lightning imports the second one when it saves a checkpoint, if it is there.
PRELOADED = [name for name in (JOBS, "omegaconf") if importlib.util.find_spec(name)]


class Launch:
    """Run functions in processes of their own, one for each rank."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.driver", *PRELOADED],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, function: Callable[..., Any], *, world_size: int = 1, dies: int = 0, timeout: float = 60, **arguments: Any
    ) -> list[Any]:
        """Return what each rank returned; ``dies`` is the signal that must end rank 0 instead."""
        self.count += 1
        folder = self.folder / f"{self.count:02d}-{function.__name__}"
        job = {
            "function": f"{function.__module__}:{function.__name__}",
            "folder": str(folder),
            "world_size": world_size,
        }
        job |= {"timeout": timeout, "arguments": arguments}
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        print(json.dumps(job, default=_plain), file=self.driver.stdin, flush=True)
        codes = json.loads(self.driver.stdout.readline())
        logs = "\n".join(log.read_text() for log in sorted(folder.glob("*.log")))
        assert codes == [-dies] * world_size, f"exit codes {codes} of {function.__name__}{arguments}:\n{logs}"
        return [] if dies else [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(world_size)]

    def close(self) -> None:
        assert self.driver.stdin is not None
        self.driver.stdin.close()
        self.driver.wait(timeout=60)


class Run(NamedTuple):
    """A finished run: its folder, and what every rank ended with."""

    folder: Path
    ranks: list[Any]

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step={step}.ckpt"


def largest_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Over all tensors; infinity where a tensor is missing or of another shape."""
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return float("inf")
    return max(_difference(ours[name].double(), theirs[name].double()) for name in ours)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    apart = torch.where(ours == theirs, 0.0, (ours - theirs).abs())  # two infinities are equal
    return float(apart.nan_to_num(nan=float("inf")).max()) if apart.numel() else 0.0


def same(ours: Mapping[str, Any], theirs: Mapping[str, Any], parts: Sequence[str]) -> bool:
    """Whether parts of two outcomes are equal to the bit."""
    return all(largest_difference(ours[part], theirs[part]) == 0 for part in parts)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else dataclasses.asdict(value)


@pytest.fixture(scope="package")
def whole(launch: Launch) -> Callable[..., Run]:
    """Uninterrupted runs, each made once."""

    done: dict[Any, Run] = {}

    def run(
        recipe: jobs.Recipe, world_size: int = 1, keep: jobs.Keep = "all", validate: jobs.Validate | None = None
    ) -> Run:
        key = (recipe, world_size, keep, validate)
        if key not in done:
            folder = launch.folder / f"whole-{launch.count}"
            arguments = {"recipe": recipe, "folder": folder, "keep": keep, "validate": validate}
            done[key] = Run(folder, launch(jobs.fit, world_size=world_size, **arguments))
        return done[key]

    return run


@pytest.fixture(scope="package")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    launcher = Launch(tmp_path_factory.mktemp("jobs"))
    yield launcher
    launcher.close()
