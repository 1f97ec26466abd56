"""What the processes of the contract do: one small guided run of a method."""

from __future__ import annotations

from typing import Any

import torch

from lightning_condkd.data import CondensedDataModule
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
