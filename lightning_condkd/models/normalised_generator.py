"""The generator whose last layer makes images of zero mean and unit variance: that of DAFL, ZSKT and PRE-DFKD."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class NormalisedGenerator(nn.Module):
    """Linear layer to a small map, stages of nearest upsampling and 3x3 convolution, then BatchNorm over each channel.

    Its last layer yields what the teacher calls normalised; the images returned are taken back to the units of [0, 1]
    with the teacher's mean and deviation and may leave that interval. At 32 px it is the generator of DAFL: an 8x8
    map, two stages of ``width`` and ``width / 2`` channels. Other sizes (ours) take as many stages, two at least, as
    bring a map of at most 8x8 to the image. Use it in train mode, as these methods do.

    Args:
        image_shape: ``(C, H, W)`` in pixels; sides that two halvings divide.
        mean: what the teacher subtracts from each channel; empty for nothing.
        std: what the teacher divides each channel by; empty for nothing.
        latent_size: width of a latent.
        width: channels of all stages but the last, which has half as many.
        tanh: whether the last convolution is squashed to (-1, 1) before its BatchNorm (DAFL, PRE-DFKD; not ZSKT).
        affine: whether the last BatchNorm learns scale and offset (ZSKT).
        spectral: whether the convolutions are spectrally normalised (PRE-DFKD's novel generator).
        bn_eps: eps of the BatchNorm layers between the stages; 0.8 in the official codes of DAFL and PRE-DFKD, where it
            was probably meant as a momentum.

    Raises:
        ValueError: if an image does not divide by the stages.

    Example:
        >>> generator = NormalisedGenerator((1, 8, 8), mean=(0.5,), std=(0.25,), latent_size=16, width=8)
        >>> images = generator(torch.randn(64, 16))
        >>> images.shape, round(images.mean().item(), 3), round(images.std().item(), 2)
        (torch.Size([64, 1, 8, 8]), 0.5, 0.25)

    References:
        Chen et al.: "Data-Free Learning of Student Networks", arXiv 1904.01186.
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
        tanh: bool = True,
        affine: bool = False,
        spectral: bool = False,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        channels, height, breadth = image_shape
        stages = max(2, (max(height, breadth) - 1).bit_length() - 3)
        if height % (1 << stages) or breadth % (1 << stages):
            raise ValueError(f"expected image_shape with sides that {1 << stages} px divide, got {image_shape}")
        self.latent_size = latent_size
        start = (height >> stages, breadth >> stages)
        self.project = nn.Linear(latent_size, width * start[0] * start[1])
        self.unflatten = nn.Unflatten(1, (width, *start))
        self.norm = nn.BatchNorm2d(width)
        widths = [width] * stages + [max(width // 2, 1)]
        self.stages = nn.Sequential(*(layer for pair in pairwise(widths) for layer in _stage(*pair, spectral, bn_eps)))
        self.to_image = nn.Sequential(
            _conv(widths[-1], channels, spectral),
            nn.Tanh() if tanh else nn.Identity(),
            nn.BatchNorm2d(channels, affine=affine),
        )
        self.register_buffer("mean", torch.tensor(tuple(mean) or (0.0,)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std) or (1.0,)).view(-1, 1, 1), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)``, pixels in the units of [0, 1], unbounded.

        Args:
            latents: ``(N, latent_size)``, standard normal.
        """
        maps = self.norm(self.unflatten(self.project(latents)))
        normalised: Tensor = self.to_image(self.stages(maps))
        return normalised * self.std + self.mean


def _conv(in_channels: int, channels: int, spectral: bool) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1)
    return spectral_norm(conv) if spectral else conv


def _stage(in_channels: int, channels: int, spectral: bool, bn_eps: float) -> tuple[nn.Module, ...]:
    conv = _conv(in_channels, channels, spectral)
    return nn.Upsample(scale_factor=2), conv, nn.BatchNorm2d(channels, bn_eps), nn.LeakyReLU(0.2)
