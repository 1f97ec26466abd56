"""ResNet-18 and ResNet-34 of torchvision with a stem for small images."""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet

_BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}


class SmallImageResNet(resnet.ResNet):
    """ResNet-18 and ResNet-34 for 32x32 images, of any other size too: four stages of 64, 128, 256 and 512 channels.

    The stem is a 3x3 convolution of stride 1 without max pooling, so 32 px images end in a 4x4 map. All else is
    torchvision's: also the initial values (the rule of He with the number of outputs) and the names of the weights.
    Those of pytorch-cifar and DataFree fit once ``shortcut`` is renamed ``downsample``, and ``linear`` ``fc``.

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
