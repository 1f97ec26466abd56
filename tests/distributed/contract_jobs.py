"""What the processes of the contract do: one small guided run of a method."""

from __future__ import annotations

from typing import Any

import torch

from lightning_condkd.alignment import FeatureAlignment, ProjectionDiscriminator
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.inversion import LatentCutMix, PipelineLoading
from lightning_condkd.rounds import Cadence
from tests.distributed.jobs import Recipe, make_trainer, outcome
from tests.helpers import contract, toy


def fit_method(name: str, folder: str) -> dict[str, Any]:
    """Run a method with alignment on the ranks that there are, without checkpoint and validation."""
    torch.manual_seed(0)
    module = contract.model(name, weight=5.0)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, mix=contract.mix(module.inversion))  # type: ignore[arg-type]
    trainer = make_trainer(Recipe(rounds=2), folder, [])
    trainer.fit(module, data)
    return outcome(module, data, trainer)


def fit_diffusion(folder: str) -> dict[str, Any]:
    """A diffusion model in float64, with CutMix, adversary and alignment, and no BatchNorm anywhere."""
    torch.manual_seed(0)
    settings = {"loading": PipelineLoading("float64"), "cutmix": LatentCutMix(), "bn_weight": 0.0}
    inversion = contract.make("DiffDFKD", cadence=Cadence(5, 3, warmup_rounds=1), **settings)
    networks = {n: toy.observed(toy.network(n, norm="one_group")) for n in ("teacher", "student")}
    module = toy.condkd(inversion, FeatureAlignment(ProjectionDiscriminator((16,)), weight=1.0), **networks)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8)
    trainer = make_trainer(Recipe(rounds=2, precision="64-true"), folder, [])
    trainer.fit(module, data)
    return outcome(module, data, trainer)
