"""Residual networks for small images: 6n + 2 layers in three stages, and the ResNet-18 to 50 of CIFAR papers."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

_BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}

Shortcut = Literal["pad", "conv"]


class PadShortcut(nn.Module):
    """Shortcut without parameters ("option A"): every second pixel in both directions, new channels are zeros.

    Args:
        in_channels: channels that enter.
        out_channels: channels that leave; the zeros are divided between both sides.
        stride: step between the pixels that are kept.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(N, out_channels, H / stride, W / stride)``.

        Args:
            maps: ``(N, in_channels, H, W)``.
        """
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Args:
        in_channels: channels that enter.
        channels: channels that leave.
        stride: stride of the first convolution.
        shortcut: ``pad`` (no parameters) or ``conv`` (1x1 convolution and BatchNorm) where the shape changes.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride, shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(N, channels, H / stride, W / stride)``.

        Args:
            maps: ``(N, in_channels, H, W)``.
        """
        hidden = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(maps))


class CifarResNet(nn.Module):
    """Residual network for 32x32 images; other sizes work too (global average pool).

    Args:
        depth: number of weighted layers, 6n + 2: 8, 14, 20, 32, 56, 110 ...
        num_classes: number of classes K.
        width: channels of the first stage; the next ones have two and four times as many.
        in_channels: channels of the images.
        shortcut: ``pad`` is the paper's option A, ``conv`` its option B.

    Raises:
        ValueError: if the depth is not 6n + 2.

    Example:
        >>> import torch
        >>> CifarResNet(8)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    References:
        He et al., Deep Residual Learning for Image Recognition, section 4.2, https://arxiv.org/abs/1512.03385
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        width: int = 16,
        in_channels: int = 3,
        shortcut: Shortcut = "pad",
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"expected depth=6n+2 (8, 14, 20, 32, 56, ...), got {depth}")
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(blocks, width, width, 1, shortcut)
        self.layer2 = _stage(blocks, width, 2 * width, 2, shortcut)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2, shortcut)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K)``.

        Args:
            images: ``(N, C, H, W)``, normalised.
        """
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits


def _shortcut(in_channels: int, channels: int, stride: int, kind: Shortcut) -> nn.Module:
    if kind not in ("pad", "conv"):
        raise ValueError(f"expected shortcut='pad' or 'conv', got {kind!r}")
    if in_channels == channels and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(in_channels, channels, stride)
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def _stage(blocks: int, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1, shortcut) for _ in range(blocks - 1)))


class SmallImageResNet(resnet.ResNet):
    """ResNet-18 and ResNet-34 for 32x32 images or any other size: four stages of 64, 128, 256 and 512 channels.

    The stem is a 3x3 convolution of stride 1 without max pooling, so 32 px images end in a 4x4 map. All else is
    torchvision's, including the initial values (Kaiming, fan-out) and the names of the weights. Weights of
    pytorch-cifar and DataFree fit after renaming ``shortcut`` to ``downsample`` and ``linear`` to ``fc``.

    Args:
        depth: 18 or 34 weighted layers. For 6n + 2 layers in three stages, see
            :class:`~lightning_condkd.models.CifarResNet`.
        num_classes: number of classes K.
        in_channels: channels of the images.

    Raises:
        ValueError: if the depth is another.

    Example:
        >>> import torch
        >>> SmallImageResNet(18)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    References:
        He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
    """

    def __init__(self, depth: int, num_classes: int = 10, *, in_channels: int = 3) -> None:
        if depth not in _BLOCKS:
            raise ValueError(f"expected depth=18 or 34, got {depth}; CifarResNet has the depths 6n+2")
        super().__init__(resnet.BasicBlock, _BLOCKS[depth], num_classes)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()  # type: ignore[assignment]
