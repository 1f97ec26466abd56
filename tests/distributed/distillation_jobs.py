"""What the processes do: brief runs of Distillation on the digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_condkd import distillation
from lightning_condkd.augment import CropFlip, Mixup
from lightning_condkd.data import DigitsDataModule
from lightning_condkd.distillation import DistillationLoss, KLDistillation, WeightedLosses
from lightning_condkd.modules import Distillation
from tests.distributed.jobs import Recipe, make_trainer
from tests.helpers import toy
from tests.helpers.callbacks import SaveAt

MAPS = ["features.2", "features"]
MIDDLE = 5  # a step within the second epoch of four
ROWWISE: dict[str, Callable[[], DistillationLoss]] = {
    "kd": lambda: WeightedLosses({"ce": distillation.CrossEntropy(), "kd": KLDistillation(4.0)}),
    "vid": lambda: distillation.VID(MAPS),
    "crd": lambda: distillation.CRD(negatives=16, size=8),
    "nd": distillation.NormDirection,  # without a layer of its own, since the networks are of the same width
}


def fit_rowwise(folder: str) -> dict[str, dict[str, Tensor]]:
    """Return the state after runs in double with losses that treat every image alone, without BatchNorm."""
    return {name: _fit(_module(make(), norm="none"), folder, "64-true") for name, make in ROWWISE.items()}


def fit_and_resume(folder: str) -> dict[str, dict[str, Tensor]]:
    """Return the state after a run with BatchNorm and mixtures, and after its rest from a checkpoint."""
    file = Path(folder, "cut.ckpt")

    def make() -> Distillation:
        hint = WeightedLosses({"kd": KLDistillation(4.0), "hint": distillation.FitNet("features")})
        return _module(hint, mixing=Mixup())

    whole = _fit(make(), folder, "32-true", SaveAt(MIDDLE, file))
    return {"whole": whole, "rest": _fit(make(), folder, "32-true", resume=file)}


def _module(loss: DistillationLoss, norm: str = "batch", **arguments: Any) -> Distillation:
    teacher = toy.observed(toy.network("teacher", num_classes=10, norm=norm))
    student = toy.network("student 1", num_classes=10, norm=norm)
    return Distillation(teacher, student, loss, augment=CropFlip(1, 0.0), seed=0, **arguments)


def _fit(
    module: Distillation, folder: str, precision: Any, *callbacks: SaveAt, resume: Path | None = None
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    trainer = make_trainer(Recipe(rounds=2, precision=precision), folder, list(callbacks))
    trainer.fit(module, DigitsDataModule(320, seed=0), ckpt_path=resume)
    return {key: value.detach().clone() for key, value in module.state_dict().items()}
