"""What the processes of the tests of several loaders do: train briefly, and return what was measured."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.callbacks.baseline import CondensedOnlyBaseline
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.randomness import seeded_generator
from tests.distributed.jobs import Recipe, make_trainer, model
from tests.inversion import toy


def measure(folder: str, dictionary: bool) -> dict[str, float]:
    """Train without synthesis by rank, on held-out loaders of five and of one image."""
    generator = seeded_generator(0, "held out")
    loaders = [
        DataLoader(TensorDataset(torch.rand(n, *toy.SHAPE, generator=generator), torch.arange(n) % 3), batch_size=4)
        for n in (5, 1)
    ]
    held_out = dict(zip("ab", loaders, strict=True)) if dictionary else loaders
    recipe, baseline = Recipe(rounds=2, norm="none", precision="64-true"), CondensedOnlyBaseline()
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=held_out)
    module, trainer = model(recipe), make_trainer(recipe, folder, [baseline])
    trainer.fit(module, data)
    found = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val")}
    trainer.test(module, datamodule=data, verbose=False)
    found |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {**found, "baseline": baseline.accuracy or 0.0, "teacher": module.teacher_accuracy or 0.0}
