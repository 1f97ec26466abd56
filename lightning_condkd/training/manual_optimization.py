"""Several optimizers of a Lightning module under manual optimization, by name."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
from torch import Tensor

from lightning_condkd.steps.optimizer_turns import OptimizerTurns


class ManualOptimization(OptimizerTurns):
    """The optimizers of a module, whose updates go through its trainer's strategy and precision.

    Args:
        module: the module that configured them.
        names: their names, in the order in which ``configure_optimizers`` returns them.
    """

    def __init__(self, module: L.LightningModule, names: Sequence[str]) -> None:
        optimizers = module.optimizers() if names else []
        listed = optimizers if isinstance(optimizers, list) else [optimizers]
        self._module, self._wrapped = module, dict(zip(names, listed, strict=False))
        scaler = getattr(module.trainer.precision_plugin, "scaler", None)
        super().__init__({name: wrapped.optimizer for name, wrapped in self._wrapped.items()}, scaler)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss as the strategy does.

        Args:
            loss: scalar with its graph.
        """
        self._module.manual_backward(loss)

    def step(self, name: str) -> None:
        """Let an optimizer take its step as the strategy does.

        Args:
            name: name of the optimizer.
        """
        self._wrapped[name].step()
