"""Encoder of PRE-DFKD's variational autoencoder for image replay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Encoder(nn.Module):
    """Three 3x3 convolutions on an image, then the mean and the logarithm of the variance of its latent.

    The image is normalised as for the teacher and divided by its L2 norm along the height; the first two convolutions
    of ``width / 2`` and ``width`` channels are followed by BatchNorm and LeakyReLU 0.2, the third of stride 2 by
    BatchNorm alone. Maps are halved (nearest) before and after the third. At 32 px and above it is the encoder of
    PRE-DFKD, which ends in a map of H/8 x W/8. For smaller images (our extension) halvings are left out, the second
    below 32 px and the first below 16, so that a map of 4x4 remains at 8 px too.

    Args:
        image_shape: ``(C, H, W)`` in pixels.
        mean: the teacher's mean of each channel; empty for none.
        std: the teacher's standard deviation of each channel; empty for none.
        latent_size: width of a latent.
        width: channels of the last two convolutions.
        bn_eps: eps of the first two BatchNorm layers; 0.8 in the official code, where it was probably meant as a
            momentum.

    Example:
        >>> encoder = Encoder((1, 8, 8), latent_size=16, width=8)
        >>> mean, log_variance = encoder(torch.rand(4, 1, 8, 8))
        >>> mean.shape, log_variance.shape
        (torch.Size([4, 16]), torch.Size([4, 16]))

    References:
        Binici et al.: "Robust and Resource-Efficient Data-Free Knowledge Distillation by Generative Pseudo Replay",
        arXiv 2201.03019.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        latent_size: int = 1000,
        width: int = 128,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        first, second = min(sides) >= 16, min(sides) >= 32
        half = max(width // 2, 1)
        self.maps = nn.Sequential(
            *_block(channels, half, bn_eps),
            *_block(half, width, bn_eps),
            nn.Upsample(scale_factor=0.5) if first else nn.Identity(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=0.5) if second else nn.Identity(),
            nn.Flatten(),
        )
        height, breadth = ((((side >> first) + 1) // 2) >> second for side in sides)
        self.to_mean = nn.Linear(width * height * breadth, latent_size)
        self.to_log_variance = nn.Linear(width * height * breadth, latent_size)
        self.register_buffer("mean", torch.tensor(tuple(mean) or (0.0,)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std) or (1.0,)).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latents, ``(N, latent_size)`` each.

        Args:
            images: ``(N, C, H, W)``, pixels in the units of [0, 1].
        """
        features = self.maps(F.normalize((images - self.mean) / self.std, dim=2))
        return self.to_mean(features), self.to_log_variance(features)


def _block(in_channels: int, channels: int, bn_eps: float) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1)
    return conv, nn.BatchNorm2d(channels, bn_eps), nn.LeakyReLU(0.2)
