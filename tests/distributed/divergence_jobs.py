"""What the processes do where one rank alone breaks."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_condkd.data import CondensedDataModule
from lightning_condkd.distillation.composed import ComposedLoss
from lightning_condkd.distributed import rank, world_size
from lightning_condkd.modules import CondKD
from lightning_condkd.types import NetworkOutput
from tests.distributed.jobs import CADENCE, Recipe, checkpoints, make_trainer, model, real_images
from tests.helpers import toy

UNIT = CADENCE.length + CADENCE.synthesis_steps + 1  # the student's second of the second round


class BreakLast(Callback):
    """Breaks something on the last rank: a statistic after a unit, or the student's loss in it."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self.what == "statistic" and trainer.global_step == UNIT and rank() == world_size() - 1:
            dict(pl_module.named_buffers())["student.network.features.1.running_var"][0] = torch.nan


class _BreakLoss(ComposedLoss):
    def __init__(self, module: CondKD) -> None:
        super().__init__()
        self.own, self.module = module.distillation, [module]
        self.adopt_needs()

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        loss = self.own(student, teacher, labels, self.context)
        unit = self.module[0].unit
        assert unit is not None
        broken = unit.counter == UNIT and rank() == world_size() - 1
        return loss + torch.nan if broken else loss


def fit_and_break(what: str, folder: str) -> dict[str, Any]:
    """Run until one rank breaks; return the error, and where the run was."""
    recipe = Recipe()
    module = model(recipe)
    if what == "loss":
        module.distillation = _BreakLoss(module)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=real_images("ours"))
    trainer = make_trainer(recipe, folder, [*checkpoints(folder, "all"), BreakLast(what)])
    try:
        trainer.fit(module, data)
    except FloatingPointError as error:
        return {"error": str(error), "step": trainer.global_step, "bank": len(data.transfer_set.bank)}
    return {}
