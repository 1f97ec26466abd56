"""Networks with random weights, new ones at every call and the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, final

import torch
from torch import nn

from lightning_condkd.models.checks import check_classifier
from lightning_condkd.models.observer import Observer
from lightning_condkd.models.taps import batch_norm_layers
from lightning_condkd.randomness import seeded_generator, seeded_initialization

Network = TypeVar("Network", bound=nn.Module)


def normalize_by_batch(network: Network) -> Network:
    """Put BatchNorm in training mode and all else in evaluation mode; dropout would draw from the global stream.

    Args:
        network: it is changed in place, and returned.

    Example:
        >>> network = normalize_by_batch(nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5)))
        >>> [layer.training for layer in network]
        [True, False]
    """
    network.eval()
    for layer in batch_norm_layers(network):
        layer.train()
    return network


@final  # so the command line takes it without a class_path
class FreshNetworks:
    """Makes networks with random weights, each with the normalisation of the data.

    Args:
        network: makes a new network at every call, such as a class or a ``functools.partial``.
        mean: what it is to subtract from each channel, in the units of [0, 1]; ``None`` for nothing.
        std: likewise what it is to divide by.

    Raises:
        ValueError: if the network is the same object at every call.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> networks = FreshNetworks(lambda: ConvNet(2, image_size=8, depth=1, width=4))
        >>> first, again = (networks.make(torch.Generator().manual_seed(0)) for _ in range(2))
        >>> first.fingerprint() == again.fingerprint(), first.training
        (True, True)
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.network, self.mean, self.std = network, mean, std
        first = self.make(seeded_generator(0, "network"))
        if first.network is self.make(seeded_generator(0, "network")).network:
            raise ValueError("network: expected a new network at every call, got the same object; pass its class")
        self.name = type(first.network).__name__
        self.num_classes, self.has_bn = first.num_classes, bool(first.bn_channels)
        self.num_parameters = sum(parameter.numel() for parameter in first.parameters())

    def make(self, generator: torch.Generator) -> Observer:
        """Return a new network in training mode, on the CPU.

        Args:
            generator: its weights are drawn from it.
        """
        with seeded_initialization(generator):
            return Observer(self.network(), self.mean, self.std).train()

    def check(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Check the networks against the data.

        Args:
            image_shape: ``(C, H, W)`` in pixels.
            num_classes: number of classes K of the data.

        Raises:
            ValueError: if they have another number of classes, or cannot read such images.
        """
        check_classifier("network", self.make(seeded_generator(0, "network")), image_shape, num_classes)

    def settings(self) -> dict[str, Any]:
        """Return what a file records of the networks, JSON values only."""
        statistics = {"mean": self.mean, "std": self.std}
        return {"network": self.name, **{k: None if v is None else list(v) for k, v in statistics.items()}}


def check_fresh(networks: object) -> FreshNetworks:
    """Return what makes new networks, checked to be one.

    Args:
        networks: what a method was given.

    Raises:
        TypeError: if it is something else, such as the class of a network.

    Example:
        >>> check_fresh(nn.Flatten)
        Traceback (most recent call last):
        TypeError: networks: expected FreshNetworks, got Flatten; give FreshNetworks(network, mean, std)
    """
    if isinstance(networks, FreshNetworks):
        return networks
    name = getattr(networks, "__name__", type(networks).__name__)
    raise TypeError(f"networks: expected FreshNetworks, got {name}; give FreshNetworks(network, mean, std)")
