"""One tick of Lightning's step counter for each training step, whatever the number of optimizer steps in it."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.core.optimizer import LightningOptimizer


def _nothing() -> None:
    """Stand in for the counting hooks of an optimizer."""


def tick_once(module: L.LightningModule) -> None:
    """Count this ``training_step`` as one step; call it first in the step.

    Under manual optimisation Lightning counts every optimizer step, which makes ``max_steps`` and
    ``every_n_train_steps`` depend on the method. Private names of Lightning are used here and nowhere else.

    Args:
        module: a module under manual optimisation, attached to a trainer.
    """
    optimizers = module.optimizers()
    for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
        if isinstance(optimizer, LightningOptimizer):
            optimizer._on_before_step = optimizer._on_after_step = _nothing
    progress = module.trainer.fit_loop.epoch_loop.manual_optimization
    progress._on_before_step()
    progress._on_after_step()
