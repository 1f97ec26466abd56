"""Several optimizers by name, each of which updates its parameters while those of the others are frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

LARGEST_PIXEL = "largest pixel"


class Update(NamedTuple):
    """Result of an optimizer's update.

    Args:
        optimizer: name of the optimizer.
        losses: scalars that must be finite: the loss, its terms, the largest pixel of the images.
        observed: scalars for the logs.
    """

    optimizer: str
    losses: Mapping[str, Tensor]
    observed: Mapping[str, Tensor]


class OptimizerTurns:
    """The optimizers of a loop, in plain PyTorch.

    Args:
        optimizers: name to optimizer.
        scaler: gradient scaler of the losses, for half precision; ``None`` disables it.

    Example:
        >>> layer, other = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> optimizers = {"layer": torch.optim.SGD(layer.parameters(), 0.1), "other": torch.optim.SGD([other.bias])}
        >>> with OptimizerTurns(optimizers).turn("layer") as update:
        ...     update(layer(torch.ones(1, 2)).sum() + other(torch.ones(1, 2)).sum())
        >>> layer.bias.grad, other.bias.grad
        (tensor([1.]), None)
    """

    def __init__(self, optimizers: Mapping[str, Optimizer], scaler: GradScaler | None = None) -> None:
        self.optimizers = optimizers
        self.scaler = GradScaler(enabled=False) if scaler is None else scaler

    def forget(self, name: str, parameters: Sequence[nn.Parameter]) -> None:
        """Delete an optimizer's state of some parameters.

        Args:
            name: name of the optimizer.
            parameters: parameters whose state is deleted.
        """
        for parameter in parameters:
            self.optimizers[name].state.pop(parameter, None)

    def scale(self, name: str, factor: float) -> None:
        """Set the learning rates of an optimizer to a multiple of their values at the first call.

        Args:
            name: name of the optimizer; nothing happens if there is none of this name.
            factor: the multiple.
        """
        for group in self.optimizers[name].param_groups if name in self.optimizers else ():
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    @contextmanager
    def turn(self, name: str, gradient_clip: float | None = None) -> Iterator[Callable[[Tensor], None]]:
        """Yield a function that updates one optimizer from a loss; the forward pass belongs inside the context.

        Args:
            name: name of the optimizer; if there is none of this name, the forward pass runs without a graph and the
                update does nothing.
            gradient_clip: largest norm of the whole gradient; ``None`` for no limit.

        Raises:
            ValueError: in the update, if the loss has no graph.
        """
        if name not in self.optimizers:
            with torch.no_grad():
                yield lambda loss: None
            return
        frozen = self._trainable_by_others(name)
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield partial(self._update, name, gradient_clip)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _trainable_by_others(self, name: str) -> list[Tensor]:
        own = {id(parameter) for parameter in _parameters(self.optimizers[name])}
        others = (parameter for optimizer in self.optimizers.values() for parameter in _parameters(optimizer))
        return [parameter for parameter in others if parameter.requires_grad and id(parameter) not in own]

    def _update(self, name: str, gradient_clip: float | None, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise ValueError(
                f"no gradient of the loss reaches what the optimizer {name!r} trains: compute it without detach, "
                "argmax or no_grad, from what that optimizer holds"
            )
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        self.backward(loss)
        if gradient_clip is not None:
            # The gradient is still multiplied by the scaler's factor; the step removes it once.
            clip_grad_norm_(_parameters(optimizer), gradient_clip * self.scaler.get_scale())
        self.step(name)
        torch.clear_autocast_cache()  # else autocast would use cached weights from before the step

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss.

        Args:
            loss: scalar with its graph.
        """
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, name: str) -> None:
        """Let an optimizer take its step.

        Args:
            name: name of the optimizer.
        """
        self.scaler.step(self.optimizers[name])
        self.scaler.update()


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
