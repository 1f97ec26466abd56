"""What the processes do: brief runs with what a user gives the trainer beside a module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.callbacks import StudentAveraging, TimedCheckpoint
from lightning_condkd.callbacks.condensed_only import CondensedOnlyBaseline
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.distributed import rank
from lightning_condkd.randomness import seeded_generator
from tests.distributed.jobs import Recipe, make_trainer, model
from tests.helpers import toy
from tests.helpers.callbacks import SaveAt
from tests.helpers.small_runs import MODULES, Small, condkd, fit


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


def save_by_time(folder: str) -> dict[str, int]:
    """Train for two rounds of seven steps; by the clock of rank 0, and by no other, it is always time to save."""
    recipe = Recipe(rounds=2)
    callbacks = [ModelCheckpoint(folder, save_top_k=0), TimedCheckpoint(1e-9 if rank() == 0 else 1e9)]
    module, trainer = model(recipe), make_trainer(recipe, folder, callbacks)
    trainer.fit(module, CondensedDataModule(toy.condensed_set(), batch_size=8))
    return {path.name: torch.load(path, weights_only=True)["global_step"] for path in Path(folder).glob("*.ckpt")}


def save_or_not(folder: str, name: str) -> dict[str, float]:
    """Fit a small run of a module twice, the second time with checkpoints; return what differs in the end."""
    return differing(str(Path(folder, name)), MODULES[name])


def differing(folder: str, make: Callable[[Path], Small]) -> dict[str, float]:
    """Return what differs after two fits, the second of them with checkpoints."""
    ends = []
    for steps in ((), (1, 4, 5, 7, 13, 15)):
        torch.manual_seed(0)
        place = Path(folder, str(len(steps)))
        strategy = DDPStrategy(find_unused_parameters=True, process_group_backend="gloo")
        saving = [SaveAt(step, place / f"{step}.ckpt") for step in steps]
        ends.append(fit(make(place), place, save=10**6, callbacks=saving, devices=2, strategy=strategy))
    first, second = ends
    return {key: 1.0 for key in first if not torch.equal(first[key], second[key])}


class Drifting(nn.Module):
    """A network with a buffer of its own, which follows each rank's images."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = toy.network("student 1")
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int32))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(images.detach().mean(), 0.5)
            self.seen += len(images) + rank()
        return cast(Tensor, self.network(images - self.mean))


def drift(folder: str) -> dict[str, float]:
    """Fit a student with such a buffer twice, the second time with checkpoints; return what differs in the end."""
    return differing(folder, lambda place: condkd(place, student=Drifting()))


def average(folder: str) -> dict[str, list[float]]:
    """Train in double with an average of the student, then go on from a checkpoint within the last round."""
    recipe, file = Recipe(rounds=2, precision="64-true"), Path(folder, "9.ckpt")
    found = {}
    for name, resume, more in (("whole", None, [SaveAt(9, file)]), ("resumed", file, [])):
        module, trainer = model(recipe), make_trainer(recipe, folder, [StudentAveraging(0.8), *more])
        trainer.fit(module, CondensedDataModule(toy.condensed_set(), batch_size=8), ckpt_path=resume)
        floating = [value for value in module.student.state_dict().values() if value.is_floating_point()]
        found[name] = torch.cat([value.flatten() for value in floating]).tolist()
    return found
