"""Wide residual networks for small images: three stages of pre-activation blocks, 6n + 4 layers."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn


class PreActivationBlock(nn.Module):
    """Two sequences of BatchNorm, ReLU and 3x3 convolution, and a shortcut.

    If the width changes, the shortcut is a 1x1 convolution of the first ReLU's output, otherwise it is the input.

    Args:
        in_channels: channels that enter.
        channels: channels that leave.
        stride: stride of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        # Named as in the public weights.
        self.convShortcut = None if in_channels == channels else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(N, channels, H / stride, W / stride)``.

        Args:
            maps: ``(N, in_channels, H, W)``.
        """
        active = F.relu(self.bn1(maps))
        shortcut = maps if self.convShortcut is None else self.convShortcut(active)
        hidden: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return shortcut + hidden


class WideResNet(nn.Module):
    """WRN-d-k for 32x32 images; other sizes work too (global average pool).

    Initial weights are those of the official code: Kaiming (fan-out) for convolutions, no bias in the linear layer.
    Names of the weights are those of public weights (RepDistiller, DataFree). There is no dropout.

    Args:
        depth: number of weighted layers d, 6n + 4: 10, 16, 22, 28, 40 ...
        widen_factor: multiple k of the 16, 32 and 64 channels of the stages.
        num_classes: number of classes K.
        in_channels: channels of the images.

    Raises:
        ValueError: if the depth is not 6n + 4, or the factor not positive.

    Example:
        >>> import torch
        >>> WideResNet(16, 1)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    References:
        Zagoruyko and Komodakis, Wide Residual Networks, https://arxiv.org/abs/1605.07146
    """

    def __init__(self, depth: int, widen_factor: int = 1, num_classes: int = 10, *, in_channels: int = 3) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise ValueError(f"expected depth=6n+4 (10, 16, 22, 28, 40, ...), got {depth}")
        if widen_factor < 1:
            raise ValueError(f"expected widen_factor of at least 1, got {widen_factor}")
        width = 16 * widen_factor
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = _stage(blocks, 16, width, 1)
        self.block2 = _stage(blocks, width, 2 * width, 2)
        self.block3 = _stage(blocks, 2 * width, 4 * width, 2)
        self.bn1 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, num_classes)
        nn.init.zeros_(self.fc.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K)``.

        Args:
            images: ``(N, C, H, W)``, normalised.
        """
        maps = self.block3(self.block2(self.block1(self.conv1(images))))
        logits: Tensor = self.fc(F.relu(self.bn1(maps)).mean((2, 3)))
        return logits


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, channels, stride)
    layer = nn.Sequential(first, *(PreActivationBlock(channels, channels, 1) for _ in range(blocks - 1)))
    return nn.Sequential(OrderedDict(layer=layer))  # one level more, as in public weights
