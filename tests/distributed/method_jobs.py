"""What the processes that compare a method on one and two ranks do: one small run in double precision."""

from __future__ import annotations

from typing import Any

from lightning_condkd.data import CondensedDataModule
from lightning_condkd.inversion import GeneratorSettings
from lightning_condkd.models import Observer
from lightning_condkd.modules import CondKD
from tests.distributed.jobs import Recipe, make_trainer, outcome
from tests.helpers import contract, toy


def fit_method(name: str, folder: str) -> dict[str, Any]:
    """Run a method on the ranks that there are, without BatchNorm in train mode and without its distance."""
    decoder = GeneratorSettings(latent_size=toy.LATENT, network=toy.small_generator(norm="none"))
    method = contract.make(name, generator=decoder, bn_weight=0.0, batch_size=14)
    teacher, student = toy.network("teacher"), toy.network("student", norm="one_group")
    module = CondKD(Observer(teacher, (0.25,), (0.5,)), student, method, augment=toy.CROP, seed=toy.SEED)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, mix="union")
    trainer = make_trainer(Recipe(rounds=3, precision="64-true"), folder, [])
    trainer.fit(module, data)
    return outcome(module, data, trainer)
