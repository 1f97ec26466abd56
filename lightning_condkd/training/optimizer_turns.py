"""Several optimizers under manual optimisation, by name and one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_condkd.inversion.base import clip_gradients, scale_learning_rates


class OptimizerTurns:
    """The optimizers of a module, each of which takes its turn while the others' parameters are frozen.

    Args:
        optimizers: name to optimizer, in the order in which ``configure_optimizers`` returns them.
    """

    def __init__(self, optimizers: Mapping[str, Optimizer]) -> None:
        self.names = list(optimizers)

    def get(self, module: L.LightningModule, name: str) -> LightningOptimizer:
        """Return an optimizer as Lightning wraps it.

        Args:
            module: the module that configured it.
            name: its name.
        """
        optimizers = module.optimizers()
        listed = optimizers if isinstance(optimizers, list) else [optimizers]
        return listed[self.names.index(name)]

    def optimizers(self, module: L.LightningModule) -> dict[str, Optimizer]:
        """Return the optimizers by name.

        Args:
            module: the module that configured them.
        """
        return {name: self.get(module, name).optimizer for name in self.names}

    def forget(self, module: L.LightningModule, name: str, parameters: Sequence[nn.Parameter]) -> None:
        """Drop what an optimizer remembers of some parameters.

        Args:
            module: the module that configured it.
            name: its name.
            parameters: those to start anew.
        """
        for parameter in parameters:
            self.get(module, name).state.pop(parameter, None)

    def scale(self, module: L.LightningModule, name: str, factor: float) -> None:
        """Set the learning rates of an optimizer to a multiple of what they were made with.

        Args:
            module: the module that configured it.
            name: its name; nothing happens where there is none.
            factor: the multiple.
        """
        if name in self.names:
            scale_learning_rates(self.get(module, name).optimizer, factor)

    @contextmanager
    def turn(
        self, module: L.LightningModule, name: str, gradient_clip: float | None = None
    ) -> Iterator[Callable[[Tensor], None]]:
        """Yield the update of one optimizer from a loss; its forward pass belongs inside.

        Args:
            module: the module that configured it.
            name: its name; where there is none, the forward pass runs without a graph and the update does nothing.
            gradient_clip: largest norm of the whole gradient; ``None`` for no limit.

        Raises:
            ValueError: by the update, if the loss has no graph.
        """
        if name not in self.names:
            with torch.no_grad():
                yield lambda loss: None
            return
        optimizer = self.get(module, name)

        def step(loss: Tensor) -> None:
            if not loss.requires_grad:
                raise ValueError(
                    f"no gradient of the loss reaches what the optimizer {name!r} trains: compute it without detach, "
                    "argmax or no_grad, from what that optimizer holds"
                )
            optimizer.zero_grad()
            module.manual_backward(loss)
            if gradient_clip is not None:
                _clip(module, optimizer.optimizer, gradient_clip)
            optimizer.step()
            torch.clear_autocast_cache()  # before Lightning 2.6 it would go on with weights from before the step

        with module.toggled_optimizer(optimizer):
            yield step


def _clip(module: L.LightningModule, optimizer: Optimizer, norm: float) -> None:
    # The gradient is still multiplied by the scaler's factor, which the optimizer's step takes off, once.
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)
    clip_gradients(optimizer, norm if scaler is None else norm * scaler.get_scale())
