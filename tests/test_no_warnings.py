"""The first run that a user tries prints no warning: none of it is something that the user could mend."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers.environment import environment

WARNED = re.compile(r"Warning|\.py:\d+: ")
CONFIGS = ROOT / "configs"
# One process after the other would import everything again.
EVERY_COMMAND = """
import os, sys
from lightning_condkd.__main__ import run
import lightning_condkd.entry, lightning_condkd.modules

for command in sys.argv[1].split(";"):
    child = os.fork()
    if not child:
        sys.argv[1:] = command.split()
        run()
        sys.exit(0)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(code)
"""


def said(folder: Path, *commands: list[str]) -> str:
    """Return what some commands wrote to stderr, one after the other."""
    joined = ";".join(" ".join(command) for command in commands)
    everything = environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", EVERY_COMMAND, joined]
    done = subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_warning_would_be_found(tmp_path: Path) -> None:
    few = [
        f"--config={CONFIGS / 'digits' / 'teacher.yaml'}",
        "--trainer.max_epochs=1",
        "--trainer.log_every_n_steps=500",
    ]
    assert WARNED.search(said(tmp_path, ["fit", *few]))


@pytest.mark.parametrize("config", ["quickstart", "digits/teacher", "digits/dm"])
def test_a_small_run_prints_no_warning(config: str, tmp_path: Path) -> None:
    given = [f"--config={CONFIGS / config}.yaml", "--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1"]
    given += ["--trainer.max_epochs=1"] if config == "digits/dm" else []
    more = [] if config == "digits/dm" else [[name, *given, "--ckpt_path=last"] for name in ("test", "predict")]
    assert not WARNED.search(said(tmp_path, ["fit", *given], *more))


def test_an_evaluation_prints_no_warning(tmp_path: Path) -> None:
    command = ["evaluate", "package:digits-dm-1ipc.safetensors", "--data=DigitsDataModule", "--runs=1", "--epochs=2"]
    assert not WARNED.search(said(tmp_path, command))
