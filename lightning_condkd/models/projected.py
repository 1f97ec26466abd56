"""A classifier whose last map is projected to another network's, and classified by that network's final layer."""

from __future__ import annotations

from contextlib import ExitStack

from torch import Tensor, nn

from lightning_condkd.functional.feature_maps import pool_to
from lightning_condkd.models.heads import ClassifierHead, head_widths, submodule
from lightning_condkd.models.taps import tap_output


class Projector(nn.Module):
    """Bottleneck of 1x1, 3x3 and 1x1 convolutions, each followed by BatchNorm and ReLU.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result.
        factor: the result has this many times the channels of the two inner maps; 2 in the official code of SimKD.

    Raises:
        ValueError: if the factor is below 1 or above ``out_channels``.

    Example:
        >>> import torch
        >>> Projector(4, 8)(torch.rand(2, 4, 5, 5)).shape
        torch.Size([2, 8, 5, 5])

    References:
        Chen et al.: "Knowledge Distillation with the Reused Teacher Classifier", arXiv 2203.14001.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int = 2) -> None:
        super().__init__()
        if not 1 <= factor <= out_channels:
            raise ValueError(f"factor: expected 1 to {out_channels}, the channels of the result, got {factor}")
        width = out_channels // factor
        self.layers = nn.Sequential(
            *_block(in_channels, width, 1), *_block(width, width, 3), *_block(width, out_channels, 1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(N, out_channels, H, W)``, not negative.

        Args:
            maps: ``(N, in_channels, H, W)``.
        """
        projected: Tensor = self.layers(maps)
        return projected


class ProjectedNetwork(nn.Module):
    """A network up to one of its maps, a projector, and a final layer of another network, which gives the logits.

    The network runs as a whole and its own logits are dropped, so its own final layer is kept, but has no influence.

    Args:
        network: maps normalised images ``(N, C, H, W)`` to logits; its map is projected.
        map_name: name of its module whose output is projected.
        projector: maps that output to the channels of the other network.
        head: final layer, a linear layer or a 1x1 convolution. If it is as wide as the projected map has channels, it
            reads the mean over space; otherwise the whole map in one row.
        size: height and width that the map is average-pooled to; ``None`` leaves it.

    Raises:
        ValueError: if there is no such module.

    Example:
        >>> import torch
        >>> from lightning_condkd.models.digits_net import DigitsNet
        >>> network = ProjectedNetwork(DigitsNet(width=4), "features", Projector(8, 16), nn.Linear(16, 10))
        >>> network(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])

    References:
        Chen et al.: "Knowledge Distillation with the Reused Teacher Classifier", arXiv 2203.14001.
    """

    def __init__(
        self,
        network: nn.Module,
        map_name: str,
        projector: Projector,
        head: nn.Module,
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        submodule(network, map_name, "map_name")
        self.network = network
        self.map_name = map_name
        self.size = size
        self.projector = projector
        self.head = ClassifierHead(head)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K)``.

        Args:
            images: ``(N, C, H, W)``, normalised.

        Raises:
            RuntimeError: if the named module was not executed.
        """
        maps = self._map(images)
        maps = maps if self.size is None else pool_to(maps, self.size)
        logits: Tensor = self.head(head_input(self.projector(maps), self.head.layer))
        return logits

    def _map(self, images: Tensor) -> Tensor:
        with ExitStack() as hooks:
            seen = tap_output(hooks, submodule(self.network, self.map_name, "map_name"))
            self.network(images)
        if not seen:
            raise RuntimeError(f"{self.map_name!r} was not executed in the forward pass: name a module that is")
        return seen[0]


def head_input(maps: Tensor, head: nn.Module) -> Tensor:
    """Return what a final layer reads of a map: the mean over space, or the whole map in one row if it is that wide.

    Args:
        maps: ``(N, C, H, W)``.
        head: a linear layer or a 1x1 convolution.

    Returns:
        ``(N, D)``.

    Example:
        >>> import torch
        >>> maps = torch.rand(2, 8, 3, 3)
        >>> head_input(maps, nn.Linear(8, 10)).shape, head_input(maps, nn.Linear(72, 10)).shape
        (torch.Size([2, 8]), torch.Size([2, 72]))
    """
    return maps.mean((2, 3)) if head_widths(head)[0] == maps.shape[1] else maps.flatten(1)


def _block(in_channels: int, out_channels: int, size: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()
