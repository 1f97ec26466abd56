"""CIFAR-10, ResNet-20 to ResNet-8, at the published length of Fast; two rows side by side.

220 rounds of 400 student steps at batch 256, of which 20 are warm-up; 5 synthesis steps a round at batch 256. As in
our shorter runs on a CPU, in bf16-mixed.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.fits import distilled, packed
from benchmarks.gpu.stage import Job, Stage
from benchmarks.quality.ablation import rows

ROUNDS, EVERY, SEEDS = 220, 10, (0, 1, 2)
ROWS = ("Fast + condensed", "Fast* acgan 5", "condensed only", "Fast")
LATER = ("noise", "Fast* acgan 20")
SMALL = ["--config=configs/quickstart.yaml", "--trainer.callbacks=[]"]


def items(small: bool) -> list[str]:
    """Return the rows of one seed after the other, then the first seed of what was not asked for."""
    if small:
        return [f"{row}, seed 0" for row in ROWS]
    return [f"{row}, seed {seed}" for seed in SEEDS for row in ROWS] + [f"{row}, seed 0" for row in LATER]


def run(item: str, job: Job) -> dict[str, Any]:
    """Fit one row with one seed."""
    row, seed = item.rsplit(", seed ", 1)
    flags = [*(small_base() if job.small else _base(job)), *rows()[row], f"--seed_everything={seed}"]
    return {"flags": rows()[row], **distilled(flags, job, *(3, 1) if job.small else (ROUNDS, EVERY))}


def _base(job: Job) -> list[str]:
    return [
        *fast(),
        f"--model.init_args.teacher.init_args.weights={job.data / 'resnet20-cifar10.safetensors'}",
        f"--data.init_args.condensed={job.data / 'res_DM_CIFAR10_ConvNet_10ipc.pt'}",
        *packed(job.data),
    ]


def fast() -> list[str]:
    """Return the flags of Fast's published run; the precision is ours."""
    return [
        "--config=configs/cifar10/fast.yaml",
        "--config=configs/methods/fast.yaml",
        "--model.init_args.student_optimizer.init_args.lr=0.2",
        "--data.init_args.batch_size=256",
        "--trainer.enable_checkpointing=false",
        "--trainer.precision=bf16-mixed",
    ]


def small_base() -> list[str]:
    """Return the flags of the dry run."""
    cadence = "--model.init_args.inversion.init_args.cadence"
    sizes = [f"{cadence}.synthesis_steps=2", f"{cadence}.distill_steps=4", f"{cadence}.warmup_rounds=1"]
    return [*SMALL, *sizes, "--model.init_args.inversion.init_args.batch_size=16"]


STAGE = Stage("rows", items, run, share=5.0, jobs=2, least=30.0, alike=True)
