"""What the processes of the contract do: one small guided run of a method."""

from __future__ import annotations

from typing import Any

import torch

from lightning_condkd.alignment import (
    CharacteristicFunction,
    ClassMeans,
    FeatureAlignment,
    GaussianMMD,
    MomentAlignment,
    ProjectionDiscriminator,
)
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.inversion import LatentCutMix, PipelineLoading
from lightning_condkd.rounds import Cadence
from tests.distributed.jobs import Recipe, make_trainer, model, outcome
from tests.helpers import contract, toy


def fit_moments(distance: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Run Fast without BatchNorm in float64, drawn by moments of the features to the condensed images."""
    recipe = Recipe(rounds=2, norm="one_group", precision="64-true", seed=seed)
    module = model(recipe)
    kind = {"mmd": GaussianMMD(), "means": ClassMeans(), "characteristic": CharacteristicFunction(frequencies=32)}
    module.alignment = MomentAlignment(kind[distance], weight=20.0, logits_weight=1.0)
    data = CondensedDataModule(toy.condensed_set(per_class=3), batch_size=8)
    trainer = make_trainer(recipe, folder, [])
    trainer.fit(module, data)
    return outcome(module, data, trainer)


def fit_method(name: str, folder: str) -> dict[str, Any]:
    """Run a method with alignment on the ranks that there are, without checkpoint and validation."""
    torch.manual_seed(0)
    module = contract.model(name, weight=5.0)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, mix=contract.mix(module.inversion))  # type: ignore[arg-type]
    trainer = make_trainer(Recipe(rounds=2), folder, [])
    trainer.fit(module, data)
    return outcome(module, data, trainer)


def fit_diffusion(folder: str) -> dict[str, Any]:
    """A diffusion model in float64, with CutMix, adversary, alignment, intermediate images, and no BatchNorm."""
    torch.manual_seed(0)
    settings = {"loading": PipelineLoading("float64"), "cutmix": LatentCutMix(), "bn_weight": 0.0}
    settings["store_intermediate"] = True
    inversion = contract.make("DiffDFKD", cadence=Cadence(5, 3, warmup_rounds=1), **settings)
    networks = {n: toy.observed(toy.network(n, norm="one_group")) for n in ("teacher", "student")}
    module = toy.condkd(inversion, FeatureAlignment(ProjectionDiscriminator((16,)), weight=1.0), **networks)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8)
    trainer = make_trainer(Recipe(rounds=2, precision="64-true"), folder, [])
    trainer.fit(module, data)
    return outcome(module, data, trainer)
