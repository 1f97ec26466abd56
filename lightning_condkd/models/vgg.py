"""VGG with BatchNorm and one linear layer, for small images."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

_WIDTHS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class SmallImageVGG(nn.Module):
    """VGG for 32x32 images: five blocks of 3x3 convolutions, global average pool, one linear layer.

    The architecture, the initial values and the names of the weights are those of RepDistiller and DataFree. As in the
    usual names (VGG-11), the depth counts the three linear layers of the original.

    Args:
        depth: 11, 13, 16 or 19.
        num_classes: number of classes K.
        max_pools: number of the five blocks that a 2x2 max pooling follows: 3 for 32 px and 4 for 64 px as in that
            code, 5 as in pytorch-cifar.
        in_channels: channels of the images, whose sides are at least ``2**max_pools`` pixels.

    Raises:
        ValueError: if the depth or the number of poolings is out of range.

    Example:
        >>> import torch
        >>> SmallImageVGG(11)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    References:
        Simonyan and Zisserman, Very Deep Convolutional Networks, https://arxiv.org/abs/1409.1556
        Tian et al., Contrastive Representation Distillation, https://arxiv.org/abs/1910.10699
    """

    def __init__(self, depth: int, num_classes: int = 10, *, max_pools: int = 3, in_channels: int = 3) -> None:
        super().__init__()
        if depth not in _CONVOLUTIONS:
            raise ValueError(f"expected depth=11, 13, 16 or 19, got {depth}")
        if not 0 <= max_pools <= len(_WIDTHS):
            raise ValueError(f"expected max_pools from 0 to {len(_WIDTHS)}, got {max_pools}")
        self.max_pools = max_pools
        ends = zip(pairwise((in_channels, *_WIDTHS)), _CONVOLUTIONS[depth], strict=True)
        for index, ((before, after), count) in enumerate(ends):
            self.add_module(f"block{index}", _block(before, after, count))
        self.classifier = nn.Linear(_WIDTHS[-1], num_classes)
        for module in self.modules():
            _initialize(module)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K)``.

        Args:
            images: ``(N, C, H, W)``, normalised.
        """
        maps = images
        for index in range(len(_WIDTHS)):
            maps = F.relu(self.get_submodule(f"block{index}")(maps))
            if index < self.max_pools:
                maps = F.max_pool2d(maps, 2)
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits


def _block(in_channels: int, channels: int, count: int) -> nn.Sequential:
    """Return convolutions with their norms; the last ReLU is in the network, to fit the names of public weights."""
    layers: list[nn.Module] = []
    for before in (in_channels, *[channels] * (count - 1)):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
