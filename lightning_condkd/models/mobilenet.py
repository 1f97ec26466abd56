"""MobileNetV2 of torchvision with a stem for small images."""

from __future__ import annotations

from typing import cast

from torch import nn
from torchvision.models import mobilenetv2


class MobileNetV2(mobilenetv2.MobileNetV2):
    """MobileNetV2 for images of any size.

    Args:
        num_classes: number of classes K.
        stem_stride: stride of the first convolution. 1 (our default) ends in a 2x2 map for 32 px images; 2 is the value
            for ImageNet.
        width_multiplier: factor on the channels of every layer.
        in_channels: channels of the images.

    Example:
        >>> import torch
        >>> MobileNetV2(10, width_multiplier=0.25)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    References:
        Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, https://arxiv.org/abs/1801.04381
    """

    def __init__(
        self, num_classes: int, *, stem_stride: int = 1, width_multiplier: float = 1.0, in_channels: int = 3
    ) -> None:
        super().__init__(num_classes=num_classes, width_mult=width_multiplier)
        stem = cast(nn.Sequential, self.features[0])
        old = cast(nn.Conv2d, stem[0])
        stem[0] = conv = nn.Conv2d(in_channels, old.out_channels, 3, stem_stride, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
