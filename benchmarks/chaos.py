"""Runs on two processes that are killed at random moments and resumed: do they end as the run that was left alone?

Everything is typed as a user types it. A case is a recipe, a signal and the numbers of processes of its attempts; the
moments come from the seed. Every attempt has a bound on its time, and no process may outlive it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import torch
from safetensors.torch import load_file
from torch import Tensor

LIMIT = 180.0  # seconds of an attempt
GRACE = 30.0  # seconds that its processes have to end once it was hit
SAVE = [
    "--trainer.callbacks+=ModelCheckpoint",
    "--trainer.callbacks.every_n_train_steps=5",
    "--trainer.callbacks.save_top_k=-1",
]
CADENCE = "--model.init_args.inversion.init_args.cadence"
RECIPES = {
    "quickstart": [
        "--config=configs/quickstart.yaml",
        "--trainer.max_epochs=40",
        f"{CADENCE}.distill_steps=10",
        "--trainer.check_val_every_n_epoch=20",
        "--trainer.strategy=ddp_find_unused_parameters_true",
    ],
    "dm": ["--config=configs/digits/dm.yaml", "--trainer.max_epochs=6", "--trainer.strategy=ddp"],
    "experts": [
        "--config=configs/digits/experts.yaml",
        "--trainer.max_epochs=60",
        "--model.init_args.epochs=10",
        "--trainer.strategy=ddp",
    ],
}
SIGNALS = ("SIGTERM", "SIGINT", "SIGKILL")
WORLDS = {"two": (2, 2, 2), "two, one, two": (2, 1, 2)}


class Attempt(NamedTuple):
    """What became of one start of the command.

    Args:
        code: return code of the first process.
        seconds: until its last process was gone.
        left: processes that had to be killed in the end.
    """

    code: int
    seconds: float
    left: int


def attempt(folder: Path, recipe: str, world: int, hit: tuple[str, float] | None, resume: bool) -> Attempt:
    """Type the command once, and hit one of its processes with a signal some time after its first new checkpoint.

    Args:
        folder: of all attempts of the case.
        recipe: name of the recipe.
        world: number of processes.
        hit: the signal, and seconds; ``None`` lets it finish.
        resume: whether it goes on from the last checkpoint.
    """
    line = [sys.executable, "-m", "lightning_condkd", "fit", *RECIPES[recipe], *SAVE, f"--trainer.devices={world}"]
    line += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder}"]
    if recipe != "quickstart":
        line.append(f"--model.init_args.output={folder / ('out' if recipe == 'experts' else 'out.safetensors')}")
    variables = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    known, began = _checkpoints(folder), time.monotonic()
    with (folder / "log.txt").open("a") as log:
        command = [*line, *(["--ckpt_path=last"] if resume else [])]
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    if hit is not None:
        while process.poll() is None and _checkpoints(folder) == known and time.monotonic() - began < LIMIT:
            time.sleep(0.05)
        time.sleep(hit[1])
        for one in _session(process.pid)[:1]:
            os.kill(one, signal.Signals[hit[0]])
    return _end(process, began)


def _end(process: subprocess.Popen[bytes], began: float) -> Attempt:
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
    deadline = time.monotonic() + GRACE
    while (left := _session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for one in left:
        os.kill(one, signal.SIGKILL)
    return Attempt(process.wait(), round(time.monotonic() - began, 1), len(left))


def _session(leader: int) -> list[int]:
    """Return the living processes of a session in random order."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return random.sample(found, len(found))


def _checkpoints(folder: Path) -> set[Path]:
    found = folder.glob("lightning_logs/version_*/checkpoints/*.ckpt")
    return {path for path in found if not path.name.startswith("best_")}  # those cannot be resumed


def outcome(folder: Path, recipe: str) -> dict[str, Tensor]:
    """Return what a case ended with: the student, or all that was written.

    Args:
        folder: of the case.
        recipe: its recipe.
    """
    if recipe != "quickstart":
        files = sorted(folder.glob("out*")) if recipe == "dm" else sorted((folder / "out").rglob("*.safetensors"))
        return {f"{file.name}/{name}": value for file in files for name, value in load_file(file).items()}
    newest = max(_checkpoints(folder), key=lambda path: path.stat().st_mtime)
    state = torch.load(newest, weights_only=True, map_location="cpu")["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("student.")}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest absolute difference, infinity if something is missing or of another shape.

    Args:
        found: an outcome.
        expected: that of the run that was left alone.
    """
    if {n: v.shape for n, v in found.items()} != {n: v.shape for n, v in expected.items()} or not found:
        return float("inf")
    return max(float((found[n].double() - v.double()).abs().max()) for n, v in expected.items())


def case(recipe: str, name: str, worlds: Sequence[int], expected: dict[str, Tensor]) -> dict[str, Any]:
    """Kill a run as often as it has attempts but one, and let the last one finish.

    Args:
        recipe: name of the recipe.
        name: of the signal.
        worlds: processes of each attempt.
        expected: outcome of the run that was left alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        moments = [random.uniform(0.0, 2.0) for _ in worlds[1:]]
        hits = [*((name, moment) for moment in moments), None]
        attempts = [
            attempt(Path(folder), recipe, world, hit, resume=index > 0)
            for index, (world, hit) in enumerate(zip(worlds, hits, strict=True))
        ]
        try:
            apart = difference(outcome(Path(folder), recipe), expected)
        except (OSError, ValueError) as error:
            apart = float("inf")
            print(error)
        if apart > 0 or attempts[-1].code:
            print((Path(folder) / "log.txt").read_text()[-2000:])
    return {
        "codes": [one.code for one in attempts],
        "seconds": [one.seconds for one in attempts],
        "left": [one.left for one in attempts],
        "difference": apart,
    }


def main() -> None:
    """Run the cases and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=list(SIGNALS))
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    results: dict[str, Any] = {}
    for recipe in options.recipes:
        with tempfile.TemporaryDirectory() as folder:
            alone = attempt(Path(folder), recipe, 2, None, resume=False)
            if alone.code:
                raise SystemExit((Path(folder) / "log.txt").read_text()[-3000:])
            expected = outcome(Path(folder), recipe)
        for name in options.signals:
            for worlds in options.worlds:
                label = f"{recipe}, {name}, {worlds} processes"
                results[label] = case(recipe, name, WORLDS[worlds], expected)
                print(label, json.dumps(results[label]), flush=True)
                common.write("chaos", {"command": sys.argv[1:], "seed": options.seed, "cases": results})


if __name__ == "__main__":
    main()
