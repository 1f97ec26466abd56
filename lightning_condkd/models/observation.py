"""What a forward pass of an observed network returns besides the logits: hooks set before it, values read after it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_condkd.models.heads import candidates, embedding_of, head_widths, submodule
from lightning_condkd.models.taps import (
    batch_norm_layers,
    tap_batch_norm,
    tap_channel_means,
    tap_input,
    tap_output,
    use_batch_statistics,
)
from lightning_condkd.types import NetworkOutput


class Asked(NamedTuple):
    """What is asked of a forward pass, see :class:`~lightning_condkd.models.Observer`.

    Args:
        head: the network's final layer, if the embedding is asked for.
        bn: whether the statistics of the BatchNorm layers are.
        maps: names of the modules whose outputs are.
        channel_means: whether the channel means of the inputs of the BatchNorm layers are, or of which modules.
        batch_statistics: whether the BatchNorm layers are to use the statistics of the batch.
    """

    head: nn.Module | None
    bn: bool
    maps: Sequence[str]
    channel_means: bool | Sequence[str]
    batch_statistics: bool


class Observation:
    """The hooks of one forward pass, and what they recorded.

    Args:
        hooks: removes the hooks when it closes.
        network: the network.
        asked: what is asked.

    Raises:
        ValueError: if a named module is missing, or there is no BatchNorm layer to use batch statistics.
    """

    def __init__(self, hooks: ExitStack, network: nn.Module, asked: Asked) -> None:
        self.network, self.asked = network, asked
        self.inputs = [] if asked.head is None else tap_input(hooks, asked.head)
        self.measured = _measured(network, asked.channel_means)
        self.means = tap_channel_means(hooks, self.measured.values())
        self.statistics = tap_batch_norm(hooks, network, self.means) if asked.bn else {}
        if asked.batch_statistics:
            _check_batch_norm(network)
            use_batch_statistics(hooks, network)
        self.maps = {name: tap_output(hooks, submodule(network, name, "maps")) for name in asked.maps}

    def output(self, logits: Tensor) -> NetworkOutput:
        """Return the logits with the values that were asked for.

        Args:
            logits: result of the forward pass, ``(N, K)``.

        Raises:
            RuntimeError: if a layer was not executed.
            ValueError: if embedding or logits have an unexpected shape.
        """
        of_batch_norm = self.asked.bn or self.asked.channel_means is True
        if of_batch_norm and not (self.statistics or self.means) and batch_norm_layers(self.network):
            raise _not_executed("BatchNorm")
        return NetworkOutput(
            logits,
            None if self.asked.head is None else self._embedding(logits, self.asked.head),
            tuple(_recorded(self.maps[name], name) for name in self.asked.maps),
            tuple(self.statistics.values()),
            self._channel_means(logits) if self.asked.channel_means else None,
        )

    def _embedding(self, logits: Tensor, head: nn.Module) -> Tensor:
        if not self.inputs:
            raise _not_executed("final linear", candidates(self.network))
        return _checked(self.inputs[0], logits, head)

    def _channel_means(self, logits: Tensor) -> Tensor:
        if self.asked.channel_means is True:  # in the order of execution, without layers that are not executed
            return torch.cat([logits.new_zeros(len(logits), 0), *self.means.values()], dim=1)
        seen = {name: [self.means[layer]] if layer in self.means else [] for name, layer in self.measured.items()}
        return torch.cat([_recorded(seen[name], name) for name in self.asked.channel_means or ()], dim=1)


def _measured(network: nn.Module, channel_means: bool | Sequence[str]) -> dict[str, nn.Module]:
    if channel_means is True:
        return {str(number): layer for number, layer in enumerate(batch_norm_layers(network))}
    return {name: submodule(network, name, "channel_means") for name in channel_means or ()}


def _check_batch_norm(network: nn.Module) -> None:
    if not batch_norm_layers(network):
        raise ValueError(
            f"batch_statistics: {type(network).__name__} has no BatchNorm layer with running statistics: use a "
            "network that has one"
        )


def _checked(inputs: Tensor, logits: Tensor, head: nn.Module) -> Tensor:
    (wide, classes), features = head_widths(head), embedding_of(head, inputs)
    expected = (logits.shape[0], wide), (logits.shape[0], classes)
    if (features.shape, logits.shape) != expected:
        raise ValueError(
            f"expected a final linear layer from {expected[0]} to logits {expected[1]}, got an input of shape "
            f"{tuple(features.shape)} and logits of shape {tuple(logits.shape)}; pass embedding=<name of module>"
        )
    return features


def _recorded(seen: list[Tensor], name: str) -> Tensor:
    if not seen:
        raise _not_executed(name)
    return seen[0]


def _not_executed(name: str, cure: str = "name a layer that is") -> RuntimeError:
    return RuntimeError(
        f"the {name} layer was not executed in the forward pass; {cure}, and compile the Observer, "
        "not its network: torch.compile drops hooks that are added later"
    )
