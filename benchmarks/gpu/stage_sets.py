"""DM and DSA on CIFAR-10 at ten images per class: as many of the published iterations as fit, and their sets' worth.

Published are 20,000 iterations of DM and 10,000 of DSA (1000 networks of ten iterations).
"""

from __future__ import annotations

import json
import time
from typing import Any

from benchmarks.gpu.fits import fit
from benchmarks.gpu.stage import Job, Stage
from lightning_condkd.cli import main

EPOCHS_OF_ITERATIONS = {"DM": (200, 100), "DSA": (1000, 10)}
EVALUATION_SECONDS = 20.0
RUNS, EVALUATION_EPOCHS = 3, 300


def items(small: bool) -> list[str]:
    """Return the two methods."""
    return list(EPOCHS_OF_ITERATIONS)


def run(item: str, job: Job) -> dict[str, Any]:
    """Learn a set in half of the time that is left, or all of it for the last method, and train networks on it."""
    now, output = time.monotonic(), job.folder / "set.safetensors"
    share = 1.0 if item == items(job.small)[-1] else 0.5
    until = now + share * (job.deadline - now) - (0.0 if job.small else EVALUATION_SECONDS)
    epochs, iterations = (1, 2) if job.small else EPOCHS_OF_ITERATIONS[item]
    lengths = [f"--trainer.max_epochs={epochs}", f"--model.init_args.steps_per_epoch={iterations}"]
    clock = fit([*_base(item, job), *lengths, f"--model.init_args.output={output}"], job, until)
    facts = {"iterations": clock["steps"], "rounds": clock["epochs"], "published_iterations": epochs * iterations}
    complete = clock["steps"] == epochs * iterations
    return {**facts, "seconds_per_iteration": clock["seconds_per_step"], "complete": complete, **_worth(job, item)}


def _base(item: str, job: Job) -> list[str]:
    if job.small:
        small = {"DM": [], "DSA": ["--model.init_args.method.init_args.network_epochs=1"]}[item]
        return [f"--config=configs/digits/{item.lower()}.yaml", *small]
    return [f"--config=configs/cifar10/{item.lower()}.yaml", *_data(job, "--data.init_args")]


def _data(job: Job, arguments: str) -> list[str]:
    return ["--data=benchmarks.gpu.packed_data.PackedCifar10", f"{arguments}.root={job.data}"]


def _worth(job: Job, item: str) -> dict[str, Any]:
    """Evaluate the set beside random real images, for fewer epochs than published."""
    data = ["--data=DigitsDataModule"] if job.small else _data(job, "--data.init_args")
    runs, epochs = (1, 1) if job.small else (RUNS, EVALUATION_EPOCHS)
    output = job.folder / "evaluation.json"
    lengths = [f"--runs={runs}", f"--epochs={epochs}"]
    made = str(job.folder / "set.safetensors")
    main(["evaluate", made, *data, *lengths, f"--output={output}", f"--device={job.device}"])
    facts = json.loads(output.read_text())
    return {"evaluation_epochs": epochs, "evaluation": facts["rows"]}


STAGE = Stage("sets", items, run, share=1.0, jobs=1, least=30.0)
