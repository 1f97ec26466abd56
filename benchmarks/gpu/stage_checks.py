"""Does everything run on the card, and say what the CPU says?

Every case is fitted for three steps of each kind in two epochs. In double precision the student must be the CPU's, or
the whole state of other modules; in the others the logged losses are compared with those of the CPU in single
precision. Single precision is what users get: cuDNN's convolutions use TF32.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from benchmarks.gpu.check_cases import MEAN, NETWORK, STD, Case, cases, teacher
from benchmarks.gpu.check_runs import Outcome, distance, equal, fit, infinite, worst_term
from benchmarks.gpu.stage import Job, Stage
from lightning_condkd.commands.select import select
from lightning_condkd.condensation import Herding, KCenter, KMeans, RealismSelection
from lightning_condkd.data import CondensedSet, DigitsDataModule
from lightning_condkd.evaluation import Recipe, TeacherLabels, evaluate
from lightning_condkd.models import FreshNetworks

DOUBLE_TOLERANCE = 1e-6
TOLERANCES = {"32-true": 0.02, "bf16-mixed": 0.3, "16-mixed": 0.2}
IN_SMALL = (
    "CondKD Fast",
    "CondKD DAFL",
    "loss CRD",
    "Distillation",
    "Classification",
    "Condensation DC",
    "GenerativeCondensation",
)


def items(small: bool) -> list[str]:
    """Return the cases, then what is no fit of a module."""
    fits = [name for name in cases() if not small or name in IN_SMALL]
    return [*fits, "CondKD in DDP with SyncBatchNorm", "CondKD resumed", "evaluate", "select"]


def run(item: str, job: Job) -> dict[str, Any]:
    """Check one item; ``problems`` says in words what is not as it should be."""
    others = {
        "CondKD in DDP with SyncBatchNorm": _distributed,
        "CondKD resumed": _resumed,
        "evaluate": _evaluated,
        "select": _selected,
    }
    return others[item](job) if item in others else _case(cases()[item], job)


def _case(case: Case, job: Job) -> dict[str, Any]:
    here, there = (partial(fit, case, job.folder / "fit", device) for device in ("cpu", job.device))
    expected = here()
    result: dict[str, Any] = {"double": _double(here("64-true"), there("64-true"))}
    single = there("32-true")
    for precision, tolerance in TOLERANCES.items():
        found = single if precision == "32-true" else there(precision)
        result[precision] = _compared(found, expected, tolerance)
    result["repeats_by_default"] = equal(there("32-true").state, single.state)
    result["deterministic"] = _determinism(*(there("32-true", deterministic="warn") for _ in range(2)))
    return {
        **result,
        "problems": [f"{n}: {p}" for n, v in result.items() if isinstance(v, dict) for p in v["problems"]],
    }


def _double(expected: Outcome, found: Outcome) -> dict[str, Any]:
    """Compare the student, or all of the state where there is none.

    A bias in front of BatchNorm has no gradient but rounding, which Adam turns into steps: such biases of generators
    differ from one order of summation to the next, on one CPU as well.
    """
    of_student = {name: value for name, value in expected.state.items() if name.startswith("student.")}
    compared = of_student or dict(expected.state)
    name, difference = distance({n: found.state[n] for n in compared}, compared)
    agrees = difference <= DOUBLE_TOLERANCE
    everything = dict(zip(("worst_of_all", "difference_of_all"), distance(found.state, expected.state), strict=True))
    problems = [] if agrees else [f"{name} off by {difference:.2g}"]
    return {"worst": name, "difference": difference, **everything, "problems": problems}


def _compared(found: Outcome, expected: Outcome, tolerance: float) -> dict[str, Any]:
    name, difference = worst_term(found.terms, expected.terms)
    problems = [f"{tensor} is not finite" for tensor in infinite(found.state)]
    if not difference <= tolerance:
        problems.append(f"{name} is {found.terms[name]:.4g}, {expected.terms[name]:.4g} on the CPU")
    return {"worst": name, "difference": difference if math.isfinite(difference) else None, "problems": problems}


def _determinism(first: Outcome, second: Outcome) -> dict[str, Any]:
    same = equal(first.state, second.state)
    problems = [] if same or first.operators else ["no operator complains, but two runs differ"]
    return {"same_twice": same, "operators_without": first.operators, "problems": problems}


def _distributed(job: Job) -> dict[str, Any]:
    """One process in DDP, which on a card is NCCL and converts the students' BatchNorm; the run is that without."""
    case, options = cases()["CondKD Fast"], {"strategy": "ddp_find_unused_parameters_true"}
    plain = fit(case, job.folder / "fit", job.device)
    found = fit(case, job.folder / "fit", job.device, sync_batchnorm=job.device == "cuda", **options)
    return _compared(found, plain, TOLERANCES["32-true"])


def _resumed(job: Job) -> dict[str, Any]:
    """A run in double precision, and one that is saved in mid-round on the card and resumed there and on the CPU."""
    case, options = cases()["CondKD Fast"], {"precision": "64-true", "deterministic": "warn"}
    whole = fit(case, job.folder / "whole", job.device, **options)
    path = _saved(case, job, options)
    result: dict[str, Any] = {}
    for device in dict.fromkeys((job.device, "cpu")):
        resumed = fit(case, job.folder / "resumed", device, ckpt_path=path, **options)
        name, difference = distance(resumed.state, whole.state)
        result[device] = {"worst": name, "difference": difference, "equal": equal(resumed.state, whole.state)}
    wrong = [f"resumed on {d}: {r['worst']} off" for d, r in result.items() if not r["difference"] <= DOUBLE_TOLERANCE]
    return {**result, "problems": wrong}


def _saved(case: Case, job: Job, options: dict[str, Any]) -> Path:
    """Stop in the middle of the second round and return the checkpoint."""
    keep = ModelCheckpoint(job.folder / "kept", every_n_train_steps=1, save_last=True)
    stopped = {"max_steps": 8, "callbacks": [keep], "enable_checkpointing": True}
    fit(case, job.folder / "stopped", job.device, **options, **stopped)
    return job.folder / "kept" / "last.ckpt"


def _evaluated(job: Job) -> dict[str, Any]:
    """Networks are trained on a set by the published recipes; TF32 is off, for the CPU has none."""
    torch.backends.cudnn.allow_tf32 = False
    train, test = DigitsDataModule().train_source, DigitsDataModule().val_source
    networks, images = FreshNetworks(partial(NETWORK, norm="batch"), MEAN, STD), train.images[:40].float() / 255
    result, problems = {}, []
    for name, recipe in {"dsa": Recipe(mirrored=True), "rded": Recipe.rded()}.items():
        labels = train.labels[:40] if name == "dsa" else TeacherLabels(teacher())
        test_on = partial(
            evaluate, images, labels, test.images, test.labels, networks, replace(recipe, epochs=20), runs=2
        )
        here, there = (test_on(device=torch.device(device)).last for device in ("cpu", job.device))
        result[name] = {"cpu": [round(a, 4) for a in here], "device": [round(a, 4) for a in there]}
        if max(abs(a - b) for a, b in zip(here, there, strict=True)) > 0.05:
            problems.append(f"{name}: accuracies differ from the CPU's by more than five points")
    return {**result, "problems": problems}


def _selected(job: Job) -> dict[str, Any]:
    """Images are chosen through a teacher; TF32 is off, for the CPU has none."""
    torch.backends.cudnn.allow_tf32 = False
    result, problems = {}, []
    for method in (Herding(), KCenter(), KMeans(), RealismSelection()):
        sets = []
        for device in ("cpu", job.device):
            path = job.folder / f"{method.name}.safetensors"
            select(path, data=DigitsDataModule(), method=method, ipc=3, teacher=teacher(), device=device)
            sets.append(CondensedSet.load(path).images)
        result[method.name] = same = int((sets[0] == sets[1]).flatten(1).all(1).sum())
        problems += [f"{method.name}: {same} of {len(sets[0])} images are the CPU's"] if same < len(sets[0]) else []
    return {"images_as_on_the_cpu": result, "problems": problems}


STAGE = Stage("checks", items, run, share=2.0, jobs=4)
