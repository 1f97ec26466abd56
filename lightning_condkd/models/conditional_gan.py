"""Generator and critic of a conditional GAN, similar to those of DiM, for any image size and number of classes."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.models.norms import make_norm


class ConditionalGenerator(nn.Module):
    """Linear layer to a small map, stages of transposed convolution (x2) and 3x3 convolution with BatchNorm, then tanh.

    The class is a one-hot vector appended to the latent, so that there may be more classes than latent entries; DiM's
    code overwrites the first entries. The map has 4x4 pixels at 8 and 32 px and 7x7 at 28 px: sides are halved as long
    as they are even and at least 8. DiM has its plain convolutions mostly at 8x8; here each stage has one.

    Args:
        image_shape: ``(C, H, W)`` in pixels.
        num_classes: number of classes K.
        latent_size: width of a latent (DiM 100, label included).
        width: channels of all maps (DiM 196).

    Example:
        >>> generator = ConditionalGenerator((1, 8, 8), num_classes=10, latent_size=16, width=8)
        >>> generator(torch.randn(2, 16), torch.tensor([0, 9])).shape
        torch.Size([2, 1, 8, 8])

    References:
        Wang et al.: "DiM: Distilling Dataset into Generative Model", arXiv 2303.04707; its code.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], num_classes: int, *, latent_size: int = 100, width: int = 196
    ) -> None:
        super().__init__()
        channels, height, breadth = image_shape
        self.latent_size, self.num_classes = latent_size, num_classes
        stages = _halvings(height, breadth)
        start = width, height >> stages, breadth >> stages
        size = start[0] * start[1] * start[2]
        self.project = nn.Sequential(nn.Linear(latent_size + num_classes, size), nn.BatchNorm1d(size), nn.ReLU())
        self.unflatten = nn.Unflatten(1, start)
        self.stages = nn.Sequential(*(layer for _ in range(stages) for layer in _stage(width)))
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)``, pixels in the units of [0, 1].

        Args:
            latents: ``(N, latent_size)``, standard normal.
            labels: classes, ``(N,)`` int64.
        """
        one_hot = F.one_hot(labels, self.num_classes).to(latents)
        maps = self.unflatten(self.project(torch.cat([latents, one_hot], dim=1)))
        return (torch.tanh(self.to_image(self.stages(maps))) + 1) / 2


class CriticOutput(NamedTuple):
    """Output of a critic for a batch.

    Args:
        realness: unbounded, higher for real, ``(N,)``.
        class_logits: ``(N, K)``.
    """

    realness: Tensor
    class_logits: Tensor


class ConditionalCritic(nn.Module):
    """3x3 convolutions, every other with stride 2, each with layer norm and LeakyReLU, then max-pool and two heads.

    Each image is scored independently of the batch, as a gradient penalty requires. The norm is over channels and
    pixels, with a scale for each channel; DiM also has one for each pixel. There are 7 convolutions at 32 px (DiM 8)
    and 3 at 8 px.

    Args:
        image_shape: ``(C, H, W)`` in pixels.
        num_classes: number of classes K; DiM's code always has 10.
        width: channels of all maps (DiM 196).

    Example:
        >>> critic = ConditionalCritic((3, 32, 32), num_classes=100, width=8)
        >>> realness, class_logits = critic(torch.rand(2, 3, 32, 32))
        >>> realness.shape, class_logits.shape
        (torch.Size([2]), torch.Size([2, 100]))

    References:
        Wang et al.: "DiM: Distilling Dataset into Generative Model", arXiv 2303.04707; its code.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, width: int = 196) -> None:
        super().__init__()
        channels, height, breadth = image_shape
        strides = [1, 2] * _halvings(height, breadth) + [1]
        widths = [channels] + [width] * len(strides)
        blocks = [_block(n, width, stride) for n, stride in zip(widths, strides, strict=False)]
        self.features = nn.Sequential(*(layer for block in blocks for layer in block))
        self.realness = nn.Linear(width, 1)
        self.class_head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> CriticOutput:
        """Score a batch.

        Args:
            images: ``(N, C, H, W)``, pixels in the units of [0, 1].
        """
        features = cast(Tensor, self.features(2 * images - 1)).amax((2, 3))
        return CriticOutput(self.realness(features).squeeze(1), self.class_head(features))


def _halvings(height: int, breadth: int) -> int:
    halvings = 0
    while height % 2 == breadth % 2 == 0 and min(height, breadth) >= 8:
        height, breadth, halvings = height // 2, breadth // 2, halvings + 1
    return halvings


def _stage(width: int) -> tuple[nn.Module, ...]:
    up = nn.ConvTranspose2d(width, width, 4, 2, padding=1)
    conv = nn.Conv2d(width, width, 3, padding=1)
    return up, nn.BatchNorm2d(width), nn.ReLU(), conv, nn.BatchNorm2d(width), nn.ReLU()


def _block(in_channels: int, width: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_channels, width, 3, stride, padding=1), make_norm("one_group", width), nn.LeakyReLU()
