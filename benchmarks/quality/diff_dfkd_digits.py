"""DiffDFKD on the handwritten digits: does guidance give images their class, and what does a student learn from them?

The diffusion model is that of ``examples/digits_diffusion.py``. Every row makes the same number of images and trains
students with the same steps on the first 50 and on all of them; Fast gets the CPU-seconds of the guided row instead.
Who judges the class of an image is a network of its own, trained on real digits. A run that the result file already
holds is not repeated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.support import result_files
from benchmarks.support.spread import mean_and_deviation
from lightning_condkd.alignment import FeatureAlignment, ProjectionDiscriminator
from lightning_condkd.assets import resolve_asset
from lightning_condkd.augment import CropFlip
from lightning_condkd.data import CondensedSet, TransferSet
from lightning_condkd.data.digits import load_digits_split
from lightning_condkd.functional.divergence import kd_divergence
from lightning_condkd.functional.inversion import bn_distance
from lightning_condkd.inversion import DiffDFKD, Fast, GeneratorSettings, Inversion, LatentCutMix, Prompt, SmoothNoise
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.randomness import Draw, seeded_generator, seeded_initialization
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps import synthesize
from lightning_condkd.types import TaskSpec

MEAN, STD, CONDENSED = (0.3059,), (0.3754,), "package:digits-dm-1ipc.safetensors"
BLOCK, BLOCKS, DENOISING, FEW = 40, 5, 20, 50
STUDENT_WIDTH, STUDENT_STEPS, JUDGE_STEPS, BATCH, LR, TEMPERATURE = 16, 400, 400, 64, 3e-3, 4.0
ALIGNMENT, LABELED = 1.0, Prompt(label_in_prompt=True, guidance_scale=2.0)
CROP = CropFlip(padding=1, flip_probability=0.0)
DIFFUSION: dict[str, dict[str, Any]] = {
    "unguided": {"guidance_rate": 0.0},
    "guided": {},
    "guided, CutMix": {"cutmix": LatentCutMix()},
    "guided + aligned": {},
    "guided + aligned, CutMix": {"cutmix": LatentCutMix()},
    "guided, not through the U-Net": {"through_unet": False},
    "classes, unguided": {"guidance_rate": 0.0, "prompt": LABELED},
    "classes, guided": {"prompt": LABELED},
}
CONTROLS = ("noise", "real", "Fast")


class Images(NamedTuple):
    images: Tensor
    labels: Tensor


@cache
def real(train: bool) -> Images:
    source = load_digits_split(train)
    return Images(torch.as_tensor(source.images).float() / 255, source.labels)


def network(width: int, purpose: str, seed: int = 0) -> Observer:
    with seeded_initialization(seeded_generator(seed, purpose)):
        return Observer(DigitsNet(width=width), MEAN, STD)


def train(learner: Observer, loss_of: Callable[[Tensor, Tensor], Tensor], data: Images, steps: int, seed: int) -> None:
    optimizer = torch.optim.Adam(learner.train().parameters(), lr=LR)
    for step in range(steps):
        rows = torch.randint(len(data.labels), (BATCH,), generator=seeded_generator(seed, "rows", step))
        optimizer.zero_grad()
        loss_of(CROP.view(data.images[rows], Draw(seed, step), "view"), data.labels[rows]).backward()
        optimizer.step()
    learner.eval()


@torch.no_grad()
def accuracy(judge: Observer, data: Images) -> float:
    return round(float((judge(data.images).logits.argmax(1) == data.labels).float().mean()), 4)


def make_judge() -> Observer:
    judge = network(48, "judge")
    train(judge, lambda images, labels: F.cross_entropy(judge(images).logits, labels), real(True), JUDGE_STEPS, 0)
    return judge.freeze()


def load_teacher() -> Observer:
    return Observer(DigitsNet(width=32), MEAN, STD, weights="package:digits-teacher.safetensors").freeze()


def student_accuracy(teacher: Observer, data: Images, seed: int) -> float:
    """Return the accuracy on real digits of a student of the teacher's predictions for some images."""
    student = network(STUDENT_WIDTH, "student", seed)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            target = teacher(images).logits
        return kd_divergence(student(images).logits, target, TEMPERATURE)

    train(student, loss, data, STUDENT_STEPS, seed)
    return accuracy(student, real(False))


def blocks(method: Inversion, teacher: Observer, seed: int, aligned: bool, enough: Callable[[int], bool]) -> Images:
    """Return the images of the last blocks, of as many as it takes; alignment is with the condensed set."""
    spec = TaskSpec((1, 8, 8), 10, teacher.embedding_size, teacher.bn_channels, MEAN, STD)
    method.build(spec, seeded_generator(seed, "inversion"))
    optimizers, extra = method.optimizers(), {}
    if aligned:
        alignment = FeatureAlignment(ProjectionDiscriminator((64,)), weight=ALIGNMENT)
        alignment.build(spec, seeded_generator(seed, "alignment"))
        optimizers["discriminator"] = alignment.optimizer()
        extra = {"alignment": alignment, "transfer_set": TransferSet(CondensedSet.load(resolve_asset(CONDENSED)))}
    made: list[Images] = []
    while not enough(len(made)):
        images, labels = synthesize(method, optimizers, teacher, teacher, len(made), seed, **extra)
        made.append(Images(images.clamp(0, 1).clone(), labels.clone()))
    return Images(*(torch.cat(parts) for parts in zip(*made[-BLOCKS:], strict=True)))


def make(row: str, teacher: Observer, seed: int, options: argparse.Namespace, seconds: float | None) -> Images:
    all_made = partial(int.__le__, BLOCKS)
    if row == "real":
        rows = torch.randperm(len(real(True).labels), generator=seeded_generator(seed, "real"))[: BLOCK * BLOCKS]
        return Images(*(part[rows] for part in real(True)))
    if row == "noise":
        return blocks(SmoothNoise(cadence=Cadence(1, 0), batch_size=BLOCK), teacher, seed, False, all_made)
    if row == "Fast":
        if seconds is None:
            raise SystemExit("Fast gets the CPU-seconds of the row 'guided': run that first")
        begin, generator = time.process_time(), GeneratorSettings(width=16, latent_size=64, lr=0.01)
        setting = {"generator": generator, "latent_lr": 0.05, "augment": CROP, "cadence": Cadence(5, 0)}
        fast = Fast(batch_size=BLOCK, adversarial_weight=0.0, **setting)
        spent = lambda made: made >= BLOCKS and time.process_time() - begin > seconds  # noqa: E731
        return blocks(fast, teacher, seed, False, spent)
    arguments = {"cadence": Cadence(DENOISING, 0), "batch_size": BLOCK, "adversarial_weight": 0.0, **DIFFUSION[row]}
    return blocks(DiffDFKD(pipeline=options.pipeline, **arguments), teacher, seed, "aligned" in row, all_made)


def run(
    row: str, networks: tuple[Observer, Observer], seed: int, options: argparse.Namespace, seconds: float | None
) -> dict[str, Any]:
    teacher, judge = networks
    begin = time.process_time()
    data = make(row, teacher, seed, options, seconds)
    spent = time.process_time() - begin
    order = torch.randperm(len(data.labels), generator=seeded_generator(seed, "order"))
    data = Images(data.images[order], data.labels[order])
    with torch.no_grad():
        distance = float(bn_distance(teacher(data.images, bn=True).bn))
    return {
        "synthesis_cpu_seconds": round(spent, 1),
        "judge": accuracy(judge, data),
        "teacher": accuracy(teacher, data),
        "bn_distance": round(distance, 3),
        f"student_{FEW}": student_accuracy(teacher, Images(*(part[:FEW] for part in data)), seed),
        f"student_{len(data.labels)}": student_accuracy(teacher, data, seed),
    } | result_files.origin()


def summarized(runs: dict[str, Any]) -> dict[str, Any]:
    numbers = [name for name, value in next(iter(runs.values())).items() if isinstance(value, float)]
    factors = {"synthesis_cpu_seconds": 1, "bn_distance": 1}
    return {name: mean_and_deviation([one[name] for one in runs.values()], factors.get(name, 100)) for name in numbers}


def main() -> None:
    """Run every row with every seed and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="names of rows", default=[*DIFFUSION, *CONTROLS])
    parser.add_argument("--pipeline", type=Path, default=Path("digits-diffusion"), help="what the example wrote")
    parser.add_argument("--name", default="diff-dfkd-digits", help="name of the result file")
    options = parser.parse_args()
    import_module("diffusers").AutoencoderKL  # noqa: B018 - so that no row pays for the import
    torch.set_num_threads(1)
    content = result_files.read(options.name, {"rows": {}})
    networks = load_teacher(), make_judge()
    content["real_accuracy"] = {
        n: accuracy(x, real(False)) for n, x in zip(("teacher", "judge"), networks, strict=True)
    }
    content["setting"] = {
        **{"images": BLOCK * BLOCKS, "block": BLOCK, "denoising_steps": DENOISING, "alignment_weight": ALIGNMENT},
        **{"student_width": STUDENT_WIDTH, "student_steps": STUDENT_STEPS, "batch": BATCH, "lr": LR},
    }
    for seed in options.seeds:
        for row in options.only:
            runs = content["rows"].setdefault(row, {"runs": {}})["runs"]
            if str(seed) in runs:
                continue
            guided = content["rows"].get("guided", {}).get("runs", {}).get(str(seed), {})
            runs[str(seed)] = found = run(row, networks, seed, options, guided.get("synthesis_cpu_seconds"))
            content["rows"][row]["mean"] = summarized(runs)
            print(f"{row:32} seed {seed}: {found}", flush=True)
            result_files.write(options.name, content)


if __name__ == "__main__":
    main()
