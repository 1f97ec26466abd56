"""GenDD on the handwritten digits: tokens or the whole embedding, contraction, and its four ways to predict.

All rows have the same teacher, student, real images, steps, batch size and schedule. The setting is that of a small
check, not the published one. A run that the result file already holds is not repeated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks.support import result_files
from benchmarks.support.spread import mean_and_deviation
from lightning_condkd.data.digits import load_digits_split
from lightning_condkd.distillation import FeatureSampling, GenDD, LossContext
from lightning_condkd.functional.feature_generation import ramped_decay
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.randomness import Draw, seeded_generator, seeded_initialization

BATCH, LR, WEIGHT_DECAY, TEACHER_STEPS = 64, 2e-3, 0.05, 800
DDIM = FeatureSampling("ddim", steps=8, samples=1)
SAMPLERS = {
    "DDPM-32 x1": FeatureSampling("ddpm", steps=32, samples=1),
    "DDPM-32 x5": FeatureSampling("ddpm", steps=32, samples=5),
    "DDIM-8 x1": DDIM,
}
ROWS: dict[str, dict[str, Any]] = {
    "4 tokens, contraction 0": {"contraction": 0.0},
    "1 token, contraction 0": {"contraction": 0.0, "token_size": 128},
    "4 tokens, contraction 0.9": {},
    "1 token, contraction 0.9": {"token_size": 128},
    "1 token, contraction 0.9, 4 times the draws": {"token_size": 128, "batch_multiplier": 16},
    "4 tokens, contraction 0.9, fixed variance": {"learn_sigma": False},
    "4 tokens, contraction 0.9, target_scale": {"target_scale": "first_batch"},
    "4 tokens, contraction 0.9, no feature mixup": {"feature_mixup": 0.0},
}
LABELS_ALONE = "labels alone"


class Images(NamedTuple):
    images: Tensor
    labels: Tensor

    @classmethod
    def load(cls, train: bool) -> Images:
        source = load_digits_split(train)
        return cls(torch.as_tensor(source.images).float() / 255, source.labels)

    def batch(self, seed: int, step: int) -> Images:
        order = torch.randperm(len(self.labels), generator=seeded_generator(seed, "batch", step))
        return Images(self.images[order[:BATCH]], self.labels[order[:BATCH]])


def made(width: int, purpose: str, seed: int) -> Observer:
    with seeded_initialization(seeded_generator(seed, purpose)):
        return Observer(DigitsNet(width=width), mean=(0.3,), std=(0.35,))


@torch.no_grad()
def accuracy(predict: Callable[[Tensor], Tensor], test: Images) -> float:
    return round(float((predict(test.images).argmax(1) == test.labels).float().mean()), 4)


def train(
    network: Observer,
    groups: list[dict[str, Any]],
    loss_of: Callable[[Images, int], Tensor],
    steps: int,
    seed: int,
    validate: Callable[[int], None] = lambda step: None,
) -> None:
    """Train by AdamW with a cosine schedule and the rising second decay rate of GenDD."""
    real = Images.load(train=True)
    optimizer = AdamW([{"params": list(network.parameters())}, *groups], lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        network.train()
        optimizer.zero_grad()
        loss_of(real.batch(seed, step), step).backward()
        for group in optimizer.param_groups:
            group["betas"] = (0.9, ramped_decay(step / max(1, steps - 1)))
        optimizer.step()
        schedule.step()
        network.eval()
        validate(step + 1)


def cross_entropy(network: Observer, batch: Images, step: int) -> Tensor:
    return F.cross_entropy(network(batch.images).logits, batch.labels)


def make_teacher() -> Observer:
    teacher = made(64, "teacher", 0)
    train(teacher, [], partial(cross_entropy, teacher), TEACHER_STEPS, seed=0)
    return teacher.freeze()


def linear(student: Observer, images: Tensor) -> Tensor:
    return student(images).logits


def run(teacher: Observer, row: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train a student once; return accuracies of all its predictions and the CPU-seconds of training."""
    student, test = made(8, "student", seed), Images.load(train=False)
    curves: dict[str, list[float]] = {"linear": []}
    predictors: dict[str, Callable[[Tensor], Tensor]] = {"linear": partial(linear, student)}
    groups: list[dict[str, Any]] = []
    loss_of: Callable[[Images, int], Tensor] = partial(cross_entropy, student)
    if row != LABELS_ALONE:
        loss = build(row, teacher, student, seed, options)
        groups, loss_of = loss.parameter_groups(), partial(distill, loss, teacher, student, seed)
        curves["DDIM-8 x1"], predictors["DDIM-8 x1"] = [], partial(loss.sample_logits, student)
    seconds = [0.0]

    def validate(step: int) -> None:
        if step % options.validate_every == 0:
            start = time.process_time()
            for name, curve in curves.items():
                curve.append(accuracy(predictors[name], test))
            seconds[0] += time.process_time() - start

    start = time.process_time()
    train(student, groups, loss_of, options.steps, seed, validate)
    spent = time.process_time() - start - seconds[0]
    found: dict[str, Any] = {
        name: {"last": curve[-1], "best": max(curve), "curve": curve} for name, curve in curves.items()
    }
    for name in SAMPLERS if row != LABELS_ALONE else ():
        if name not in found:
            loss.sampling = SAMPLERS[name]
            found[name] = {"last": accuracy(partial(loss.sample_logits, student), test)}
    return {"accuracy": found, "train_cpu_seconds": round(spent, 1)} | result_files.origin()


def build(row: str, teacher: Observer, student: Observer, seed: int, options: argparse.Namespace) -> GenDD:
    small = {"token_size": 32, "width": 128, "batch_multiplier": options.multiplier, "sampling": DDIM}
    generator = seeded_generator(seed, "loss")
    loss = GenDD(**{**small, **ROWS[row]}).build(teacher, student, (1, 8, 8), generator=generator)
    assert isinstance(loss, GenDD)
    return loss


def distill(loss: GenDD, teacher: Observer, student: Observer, seed: int, batch: Images, step: int) -> Tensor:
    context = LossContext(student_head=student.head(), draw=Draw(seed, step))
    with torch.no_grad():
        target = teacher(batch.images, embedding=True)
    return loss(student(batch.images, embedding=True), target, batch.labels, context)


def summarized(runs: dict[str, Any]) -> dict[str, Any]:
    """Return mean and deviation over seeds for every prediction, of the last and, where there is a curve, the best."""
    first = next(iter(runs.values()))["accuracy"]
    return {
        name: {
            what: mean_and_deviation([one["accuracy"][name][what] for one in runs.values()])
            for what in ("last", "best")
            if what in first[name]
        }
        for name in first
    }


def main() -> None:
    """Run every row with every seed and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="names of rows")
    parser.add_argument("--name", default="gendd-digits", help="name of the result file")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--multiplier", type=int, default=4, help="batch_multiplier of GenDD")
    parser.add_argument("--validate-every", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"steps": options.steps, "multiplier": options.multiplier, "batch": BATCH, "lr": LR}
    content = result_files.read(options.name, {"setting": setting, "rows": {}})
    content.pop("environment", None)
    if content["setting"] != setting:
        raise SystemExit(
            f"{options.name}.json holds runs of {content['setting']}, not of {setting}: give another --name"
        )
    teacher = make_teacher()
    content["teacher_accuracy"] = accuracy(partial(linear, teacher), Images.load(train=False))
    for seed in options.seeds:
        for row in options.only or [*ROWS, LABELS_ALONE]:
            entry = content["rows"].setdefault(row, {"arguments": ROWS.get(row, {}), "runs": {}})
            if str(seed) in entry["runs"]:
                continue
            entry["runs"][str(seed)] = found = run(teacher, row, seed, options)
            entry["mean"] = summarized(entry["runs"])
            lasts = {name: one["last"] for name, one in found["accuracy"].items()}
            print(f"{row:46} seed {seed}: {lasts}, {found['train_cpu_seconds']} s", flush=True)
            result_files.write(options.name, content)


if __name__ == "__main__":
    main()
