"""Every command that a signal ends says in one line how to go on, and returns the usual code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lightning_condkd.data.condensed import CondensedSet
from tests.conftest import ROOT
from tests.helpers.environment import environment

ENDS = {
    "SIGINT": "ended by Ctrl-C (SIGINT) before it was finished: ",
    "SIGTERM": "ended by SIGTERM before it was finished: ",
}
AGAIN = "nothing was written: type the command again"
# Every command has a process of its own, forked from one that has imported everything. It sends the signal to itself
# when it calls a function for the n-th time.
DRIVER = """
import json, os, signal, sys
from importlib import import_module
import lightning_condkd.modules
from lightning_condkd import entry


def run(place, calls, how, arguments):
    module, _, function = place.partition(":")
    holder = import_module(module)
    *inner, last = function.split(".")
    for part in inner:
        holder = getattr(holder, part)
    original, counted = getattr(holder, last), [0]

    def call(*args, **kwargs):
        counted[0] += 1
        if counted[0] == calls:
            os.kill(os.getpid(), signal.Signals[how])
        return original(*args, **kwargs)

    setattr(holder, last, call)
    sys.argv[1:] = arguments
    entry.run_command(sys.argv[1:])


print("ready", flush=True)
for line in sys.stdin:
    folder, *case = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        written = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 1)
        os.dup2(written, 2)
        run(*case)
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
QUICK = [
    f"--config={ROOT / 'configs' / 'quickstart.yaml'}",
    "--model.init_args.inversion.init_args.cadence.distill_steps=4",
    "--model.init_args.inversion.init_args.batch_size=32",
    "--trainer.callbacks=[]",
]
DIGITS = "--data=DigitsDataModule"
FIT = "lightning_condkd.modules.condkd:CondKD.training_step"
EVALUATE = "lightning_condkd.evaluation.fresh_training:_train"


class Ended:
    """Runs a command that is ended by a signal."""

    def __init__(self, driver: subprocess.Popen[str]) -> None:
        self.driver = driver

    def __call__(self, folder: Path, place: str, calls: int, how: str, *arguments: str) -> str:
        """Check the code, and return the last line without the common part."""
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.write(json.dumps([str(folder), place, calls, how, arguments]) + "\n")
        self.driver.stdin.flush()
        code, said = int(self.driver.stdout.readline()), (folder / "said.txt").read_text()
        (folder / "said.txt").unlink()
        assert code == 128 + signal.Signals[how], said
        assert "Traceback" not in said
        lines = [line for line in said.splitlines() if "ended by" in line or "KeyboardInterrupt" in line]
        assert lines == said.splitlines()[-1:]
        assert lines[0].startswith(ENDS[how])
        return lines[0].removeprefix(ENDS[how])


@pytest.fixture(scope="module")
def ended() -> Iterator[Ended]:
    everything, pipe = environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"), subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", DRIVER], env=everything, stdin=pipe, stdout=pipe, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        yield Ended(driver)


@pytest.fixture
def condensed(tmp_path: Path) -> Path:
    CondensedSet(torch.rand(10, 1, 8, 8), torch.arange(10)).save(tmp_path / "set.safetensors")
    return tmp_path


@pytest.mark.parametrize("how", ENDS)
def test_a_fit_names_the_checkpoint_to_resume_from(ended: Ended, how: str, tmp_path: Path) -> None:
    early = ended(tmp_path, FIT, 5, how, "fit", *QUICK)
    assert early.startswith("it was before its first checkpoint (after a round or epoch, or 10 minutes): type the")
    advice = ended(tmp_path, FIT, 15, how, "fit", *QUICK)
    files = sorted((tmp_path / "lightning_logs" / "version_1" / "checkpoints").glob("*.ckpt"))
    named = next(file for file in files if not file.name.startswith("best"))
    assert advice.startswith(f"resume with --ckpt_path last ({named.relative_to(tmp_path)}), saved ")
    assert advice.endswith("s ago at step 9")
    resumed = ended(tmp_path, FIT, 3, how, "fit", *QUICK, "--ckpt_path=last")
    assert resumed.endswith(f"resume with --ckpt_path {named.relative_to(tmp_path)}")


def test_a_fit_that_keeps_no_checkpoints_begins_again(ended: Ended, tmp_path: Path) -> None:
    quiet = ["--trainer.enable_checkpointing=false"]
    assert ended(tmp_path, FIT, 3, "SIGINT", "fit", *QUICK, *quiet) == (
        "this run keeps no checkpoints: type the command again"
    )


def test_an_evaluation_says_what_it_keeps(ended: Ended, condensed: Path) -> None:
    network = '{"small": {"class_path": "ConvNet", "init_args": {"num_classes": 10, "image_size": 8, "in_channels": 1, '
    network += '"depth": 1, "width": 4}}}'
    command = ["evaluate", "set.safetensors", DIGITS, f"--networks={network}", "--runs=2", "--epochs=1"]
    assert ended(condensed, EVALUATE, 1, "SIGINT", *command, "--output=o.json") == (
        "no training was finished: type the command again"
    )
    assert ended(condensed, EVALUATE, 3, "SIGTERM", *command, "--output=o.json") == (
        "2 finished trainings are in o.partial.json: type the command again to go on after them"
    )
    assert ended(condensed, EVALUATE, 3, "SIGTERM", *command).endswith(
        "type the command again, with an --output to keep finished trainings"
    )


@pytest.mark.parametrize(
    ("how", "place", "arguments"),
    [
        (
            "SIGTERM",
            "lightning_condkd.condensation.selection:SelectionMethod.select",
            ["select", "out.safetensors", DIGITS, "--method=RandomSelection", "--ipc=1"],
        ),
        (
            "SIGINT",
            "lightning_condkd.data.condensed:CondensedSet.load",
            ["convert", "set.safetensors", "out.safetensors"],
        ),
        (
            "SIGTERM",
            "lightning_condkd.training.checkpoints:WholeCheckpointIO.load_checkpoint",
            ["export", "set.safetensors", "out.safetensors"],
        ),
        ("SIGTERM", "lightning_condkd.modules.condkd:CondKD.test_step", ["test", *QUICK]),
        ("SIGTERM", "lightning_condkd.modules.condkd:CondKD.predict_step", ["predict", *QUICK]),
        ("SIGTERM", "lightning.pytorch.cli:LightningCLI.parse_arguments", ["fit", *QUICK]),
    ],
    ids=["select", "convert", "export", "test", "predict", "parsing"],
)
def test_other_commands_have_written_nothing(
    ended: Ended, how: str, place: str, arguments: list[str], condensed: Path
) -> None:
    assert ended(condensed, place, 1, how, *arguments) == AGAIN
    assert [path.name for path in condensed.iterdir() if path.is_file()] == ["set.safetensors"]
