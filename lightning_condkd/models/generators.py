"""Convolutional generators that map latents to images, with bounded pixels or pixels in the teacher's units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lightning_condkd.models.norms import Norm, make_norm


class ConvGenerator(nn.Module):
    """Linear layer to a small map, stages of nearest upsampling and 3x3 convolution, then a sigmoid.

    At 32 px it is the generator of CMI and Fast: an 8x8 map, two stages. Other sizes (our extension) have the number of
    stages (two or more) that takes a map of at most 8x8 to the image. The last stage has ``width`` channels, all before
    it twice as many. Sizes that the stages do not reach exactly get one more upsampling before the last convolution.
    Use it in train mode, as these methods do.

    Args:
        image_shape: ``(C, H, W)`` in pixels, 4 px at least.
        latent_size: width of a latent.
        width: channels of the last stage.
        norm: ``batch``, ``one_group`` (over channels and pixels), ``instance``, ``group`` or ``none``.
        stages: number of stages; ``None`` for the number above.

    Raises:
        ValueError: if an image is too small for the stages.

    Example:
        >>> generator = ConvGenerator((1, 8, 8), latent_size=16, width=8)
        >>> generator(torch.randn(2, 16)).shape
        torch.Size([2, 1, 8, 8])

    References:
        Fang et al., Contrastive Model Inversion for Data-Free Knowledge Distillation, https://arxiv.org/abs/2105.08584
        Fang et al., Up to 100x Faster Data-free Knowledge Distillation, https://arxiv.org/abs/2112.06253
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        latent_size: int = 256,
        width: int = 64,
        norm: Norm = "batch",
        stages: int | None = None,
    ) -> None:
        super().__init__()
        channels, height, breadth = image_shape
        stages = max(2, (max(height, breadth) - 1).bit_length() - 3) if stages is None else stages
        start = (height >> stages, breadth >> stages)
        if min(start) < 1:
            raise ValueError(
                f"expected image_shape of at least {1 << stages} px in height and width, got {image_shape}"
            )
        self.image_shape = (channels, height, breadth)
        self.latent_size = latent_size
        self.project = nn.Linear(latent_size, 2 * width * start[0] * start[1])
        self.unflatten = nn.Unflatten(1, (2 * width, *start))
        self.norm = make_norm(norm, 2 * width)
        widths = [2 * width] * stages + [width]
        blocks = [layer for pair in pairwise(widths) for layer in _stage(*pair, norm)]
        if (start[0] << stages, start[1] << stages) != (height, breadth):
            blocks.append(nn.Upsample((height, breadth)))
        self.stages = nn.Sequential(*blocks)
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)``, pixels in the units of [0, 1].

        Args:
            latents: ``(N, latent_size)``, standard normal.
        """
        maps = self.norm(self.unflatten(self.project(latents)))
        return torch.sigmoid(self.to_image(self.stages(maps)))

    def initialize(self, generator: torch.Generator) -> None:
        """Reset every layer: weights N(0, 0.02), scales of norms N(1, 0.02), biases 0, default running statistics.

        CMI resets its generator with these values at every synthesis.

        Args:
            generator: source of the numbers, on the CPU; they do not depend on the device of the parameters.
        """
        for module in self.modules():
            _refill(module, generator)

    def reset_first_layers(self, generator: torch.Generator) -> None:
        """Reset the linear layer and the first norm as :meth:`initialize` does: the scheduled reset of Fast.

        The official reset draws the norm's scale around 0, which makes its output almost 0; here it is around 1.

        Args:
            generator: source of the numbers.
        """
        _refill(self.project, generator)
        _refill(self.norm, generator)


def _stage(in_channels: int, channels: int, norm: Norm) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=norm == "none")
    return nn.Upsample(scale_factor=2), conv, make_norm(norm, channels), nn.LeakyReLU(0.2)


@torch.no_grad()
def _refill(module: nn.Module, generator: torch.Generator) -> None:
    if not isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm):
        return
    center = 0.0 if isinstance(module, nn.Linear | nn.Conv2d) else 1.0
    noise = torch.randn(module.weight.shape, generator=generator, device=generator.device, dtype=module.weight.dtype)
    module.weight.copy_(center + 0.02 * noise)
    if module.bias is not None:
        module.bias.zero_()
    if isinstance(module, nn.BatchNorm2d):
        module.reset_running_stats()


class NormalizedGenerator(nn.Module):
    """Linear layer to a small map, stages of nearest upsampling and 3x3 convolution, then BatchNorm over each channel.

    Its last layer yields normalised pixels of the teacher. They are converted to the units of [0, 1] with the teacher's
    mean and standard deviation and may leave that interval. At 32 px it is the generator of DAFL: an 8x8 map, two
    stages of ``width`` and ``width / 2`` channels. Other sizes (our extension) have the number of stages, at least two,
    that takes a map of at most 8x8 to the image. Use it in train mode, as these methods do.

    Args:
        image_shape: ``(C, H, W)`` in pixels; sides must be divisible by 2 to the number of stages.
        mean: the teacher's mean of each channel; empty for none.
        std: the teacher's standard deviation of each channel; empty for none.
        latent_size: width of a latent.
        width: channels of all stages but the last, which has half as many.
        tanh: whether the last convolution is squashed to (-1, 1) before its BatchNorm (DAFL, PRE-DFKD; not ZSKT).
        affine: whether the last BatchNorm learns scale and offset (ZSKT).
        spectral: whether the convolutions are spectrally normalised (PRE-DFKD's novel generator).
        bn_eps: eps of the BatchNorm layers between the stages; 0.8 in the official codes of DAFL and PRE-DFKD, where it
            was probably meant as a momentum.

    Raises:
        ValueError: if the sides are not divisible.

    Example:
        >>> generator = NormalizedGenerator((1, 8, 8), mean=(0.5,), std=(0.25,), latent_size=16, width=8)
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
            raise ValueError(f"expected image_shape with sides divisible by {1 << stages} px, got {image_shape}")
        self.latent_size = latent_size
        start = (height >> stages, breadth >> stages)
        self.project = nn.Linear(latent_size, width * start[0] * start[1])
        self.unflatten = nn.Unflatten(1, (width, *start))
        self.norm = nn.BatchNorm2d(width)
        widths = [width] * stages + [max(width // 2, 1)]
        self.stages = nn.Sequential(
            *(layer for pair in pairwise(widths) for layer in _spectral_stage(*pair, spectral, bn_eps))
        )
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
        normalized: Tensor = self.to_image(self.stages(maps))
        return normalized * self.std + self.mean


def _conv(in_channels: int, channels: int, spectral: bool) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1)
    return spectral_norm(conv) if spectral else conv


def _spectral_stage(in_channels: int, channels: int, spectral: bool, bn_eps: float) -> tuple[nn.Module, ...]:
    conv = _conv(in_channels, channels, spectral)
    return nn.Upsample(scale_factor=2), conv, nn.BatchNorm2d(channels, bn_eps), nn.LeakyReLU(0.2)
