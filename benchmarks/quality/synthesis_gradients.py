"""How hard each term of the synthesis loss pulls at the images, by discriminator, over a run on CIFAR-10."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import result_files
from lightning_condkd.alignment import (
    ACGANDiscriminator,
    Discriminator,
    FeatureAlignment,
    ProjectionDiscriminator,
    UnconditionalDiscriminator,
)
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.inversion import Fast, GeneratorSettings
from lightning_condkd.models import CifarResNet, Observer
from lightning_condkd.modules import CondKD
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.steps.synthesis import SynthesisStep, Synthesized

KINDS: tuple[type[Discriminator], ...] = (ACGANDiscriminator, ProjectionDiscriminator, UnconditionalDiscriminator)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ProbedStep(SynthesisStep):
    """A synthesis step that keeps, for every term, the mean norm over images of its unweighted gradient by pixels."""

    norms: dict[str, list[float]]

    def generator(self, unit: Unit, draw: Draw) -> Synthesized:
        synthesized = super().generator(unit, draw)
        for name, value in synthesized.total.values.items():
            (gradient,) = torch.autograd.grad(value, synthesized.synthetic.images, retain_graph=True)
            self.norms[name].append(float(gradient.flatten(1).norm(dim=1).mean()) * len(gradient))
        return synthesized


class Pulls(CondKD):
    """CondKD whose synthesis steps are probed."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.norms: dict[str, list[float]] = defaultdict(list)

    @property
    def synthesis_step(self) -> SynthesisStep:
        step = ProbedStep(*super().synthesis_step)
        step.norms = self.norms
        return step


def fit(kind: type[Discriminator], weight: float, options: argparse.Namespace) -> dict[str, Any]:
    """Return the pulls of a short run, the early and the late half of its rounds apart."""
    teacher = Observer(CifarResNet(20), MEAN, STD, weights=options.data / "resnet20-cifar10.safetensors")
    cadence = Cadence(synthesis_steps=5, distill_steps=options.distill_steps, warmup_rounds=2)
    inversion = Fast(cadence=cadence, batch_size=200, generator=GeneratorSettings(width=32), bn_weight=1.0)
    model = Pulls(teacher, CifarResNet(8), inversion, FeatureAlignment(kind(), weight=weight), seed=0)
    data = CondensedDataModule(options.data / "res_DM_CIFAR10_ConvNet_10ipc.pt")
    with tempfile.TemporaryDirectory() as folder:
        L.Trainer(
            max_epochs=options.rounds,
            precision="bf16-mixed",
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            default_root_dir=folder,
        ).fit(model, data)
    return {name: _halves(values) for name, values in model.norms.items()}


def _halves(values: list[float]) -> dict[str, float]:
    half = len(values) // 2
    return {"early": round(statistics.median(values[:half]), 4), "late": round(statistics.median(values[half:]), 4)}


def main() -> None:
    """Run every kind of discriminator and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--distill-steps", type=int, default=20)
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0])
    options = parser.parse_args()
    pulls = {f"{kind.__name__} {w:g}": fit(kind, w, options) for kind in KINDS for w in options.weights}
    result_files.write("gradients", {"command": sys.argv[1:], "norm of the gradient by an image, unweighted": pulls})


if __name__ == "__main__":
    main()
