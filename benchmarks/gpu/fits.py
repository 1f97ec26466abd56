"""Fits through the command line that end in time, and what they leave behind."""

from __future__ import annotations

import csv
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.children import without_folders
from benchmarks.gpu.stage import Job
from lightning_condkd.cli import main

COMPILED = ["--trainer.callbacks+=CompileNetworks", "--trainer.callbacks.mode=reduce-overhead"]
SETUP_SECONDS = 6.0  # for what comes before the first step and after the last


def fit(arguments: list[str], job: Job, until: float | None = None) -> dict[str, Any]:
    """Run ``lightning-condkd fit`` and return the number of its steps and epochs and the time of a step.

    Args:
        arguments: of the command line.
        job: says where the fit runs, where it writes and when it must have ended.
        until: an earlier reading of ``time.monotonic()`` at which it stops after the running epoch.
    """
    seconds = (job.deadline if until is None else until) - time.monotonic() - SETUP_SECONDS
    clock = job.folder / "clock.json"
    accelerator = "gpu" if job.device == "cuda" else "cpu"
    limits = {
        "trainer.accelerator": accelerator,
        "trainer.devices": "1",
        "trainer.default_root_dir": str(job.folder),
        "trainer.enable_progress_bar": "false",
        "trainer.callbacks+": "Timer",
        "trainer.callbacks.duration": time.strftime("00:%H:%M:%S", time.gmtime(max(1.0, seconds))),
        "trainer.callbacks.interval": "epoch",
    }
    own = ["--trainer.callbacks+=benchmarks.gpu.lease_callbacks.StepClock", f"--trainer.callbacks.path={clock}"]
    main(["fit", *arguments, *(f"--{name}={value}" for name, value in limits.items()), *own])
    return json.loads(clock.read_text())


def accuracies(folder: Path, name: str, every: int = 1) -> dict[str, float]:
    """Return a metric by the number of epochs after which it was measured, from the table that a fit wrote.

    Args:
        folder: of the fit.
        name: of the metric; rows of epochs without a measurement repeat the last one.
        every: how many epochs lie between two measurements.
    """
    with next(folder.rglob("metrics.csv")).open() as table:
        rows = [row for row in csv.DictReader(table) if row.get(name)]
    epochs = [int(row.get("round") or row["epoch"]) + 1 for row in rows]
    return {str(n): round(float(row[name]), 4) for n, row in zip(epochs, rows, strict=True) if n % every == 0}


def distilled(arguments: list[str], job: Job, rounds: int, every: int = 1) -> dict[str, Any]:
    """Fit CondKD and return its summary with the accuracy at every validation.

    On a GPU the networks are compiled; where that fails the run is made without, and its result says why.

    Args:
        arguments: of the command line.
        job: of the item.
        rounds: of the published length.
        every: rounds between two validations.
    """
    lengths = [f"--trainer.max_epochs={rounds}", f"--trainer.check_val_every_n_epoch={every}"]
    run = partial(_distilled, job=job, rounds=rounds, every=every)
    if job.small:
        return run([*arguments, *lengths])
    try:
        return {"compiled": True, **run([*arguments, *lengths, *COMPILED])}
    except Exception as error:
        folder = job.folder / "eager"
        folder.mkdir()
        plain = run([*arguments, *lengths], job=job._replace(folder=folder))
        return {"compiled": False, "why_not": without_folders(repr(error)[-1000:]), **plain}


def _distilled(arguments: list[str], job: Job, rounds: int, every: int) -> dict[str, Any]:
    clock = fit(arguments, job)
    summary = json.loads(next(job.folder.rglob("summary.json")).read_text())
    curve = accuracies(job.folder, "val/student_accuracy", every)
    complete = summary["rounds"] == rounds
    return {**summary, "published_rounds": rounds, "complete": complete, "curve": curve, "clock": clock}


def packed(data: Path) -> list[str]:
    """Return the flags that measure a run on the packed CIFAR-10.

    Args:
        data: folder of the unpacked pack.
    """
    at = "data.init_args.val_data"
    return [f"--{at}=benchmarks.gpu.packed_data.PackedCifar10", f"--{at}.init_args.root={data}"]
