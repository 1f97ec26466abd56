"""What the processes do: brief runs with each of several distillation losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_condkd import distillation
from lightning_condkd.augment import CutMix, Mixup
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.inversion import Fast, GeneratorSettings
from tests.distributed.jobs import Recipe, make_trainer
from tests.helpers import losses, toy

ROWWISE = ("CRD", "GenDD", "KLDistillation", "LSKD", "MSARC", "VID")


def fit_each(names: list[str], folder: str) -> dict[str, dict[str, Tensor]]:
    """Return the state of the module after a run with each loss, on the ranks that there are."""
    return {name: _fit(losses.condkd(name), Recipe(rounds=2), folder) for name in names}


def fit_rowwise(folder: str) -> dict[str, dict[str, Tensor]]:
    """The same in double for losses that treat every image alone, on networks without BatchNorm."""
    double = Recipe(rounds=2, precision="64-true")
    ends = {name: _fit(_without_batch_norm(_rowwise(name)), double, folder) for name in ROWWISE}
    for mixing in (Mixup(), CutMix()):  # classes are the teacher's, or mixed too
        loss = distillation.CrossEntropy() if isinstance(mixing, CutMix) else distillation.KLDistillation()
        ends[f"{mixing}"] = _fit(_without_batch_norm(loss, mixing=mixing), double, folder)
    return ends


def _fit(module: Any, recipe: Recipe, folder: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    make_trainer(recipe, folder, []).fit(module, CondensedDataModule(toy.condensed_set(), batch_size=8))
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def _without_batch_norm(loss: DistillationLoss, **arguments: Any) -> Any:
    networks = {
        "teacher": toy.observed(toy.network("teacher", norm="none")),
        "student": toy.network("student 1", norm="none"),
    }
    return losses.condkd(loss, inversion=_plain_fast(), **networks, **arguments)


def _plain_fast() -> Fast:
    generator = GeneratorSettings(latent_size=toy.LATENT, lr=0.05, network=toy.small_generator(norm="none"))
    return toy.fast(bn_weight=0.0, adversarial_weight=0.0, generator=generator)


def _rowwise(name: str) -> DistillationLoss:
    match name:
        case "GenDD":
            return distillation.GenDD(token_size=4, width=16, depth=1, batch_multiplier=2, feature_mixup=0.0)
        case "MSARC":
            return distillation.MSARC(["features.2", "features"])
        case "VID":
            return distillation.VID(["features.2", "features"])
    return losses.make(name)
