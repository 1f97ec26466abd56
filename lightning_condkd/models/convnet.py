"""ConvNet-D, the usual network for making and evaluating condensed sets."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lightning_condkd.models.norms import Norm, make_norm


class ConvNet(nn.Module):
    """D blocks of 3x3 convolution, normalisation, ReLU and 2x2 average pooling, then one linear layer.

    The literature uses depth 3 for 28 and 32 px, 4 for 64 px and 5 for 128 px. As in published code, the first
    convolution pads one-channel images of 28 px to 32 px.

    Args:
        num_classes: number of classes K.
        image_size: height and width of the images in pixels.
        in_channels: channels of the images.
        depth: number of blocks D.
        width: channels of every block.
        norm: ``instance`` (affine, no running statistics), ``batch``, ``group`` (4 groups), ``one_group``, ``none``, or
            ``layer``: over channels and pixels like ``one_group``, but with a scale and an offset for each pixel.

    Raises:
        ValueError: if the images are too small for the depth, or the norm is unknown.

    Example:
        >>> import torch
        >>> ConvNet(10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    References:
        Gidaris and Komodakis, Dynamic Few-Shot Visual Learning without Forgetting, https://arxiv.org/abs/1804.09458
        Zhao et al., Dataset Condensation with Gradient Matching, https://arxiv.org/abs/2006.05929
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        image_size: int = 32,
        in_channels: int = 3,
        depth: int = 3,
        width: int = 128,
        norm: Norm | Literal["layer"] = "instance",
    ) -> None:
        super().__init__()
        if depth < 1 or image_size < 2**depth:
            raise ValueError(f"expected image_size of at least 2**depth pixels, got {image_size} with depth={depth}")
        self.image_size = image_size
        padding = 3 if in_channels == 1 and image_size == 28 else 1
        size, channels = image_size + 2 * (padding - 1), in_channels
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=padding),
                _norm(norm, width, size),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
            size, channels, padding = size // 2, width, 1
        self.features = nn.Sequential(*blocks, nn.Flatten())
        self.classifier = nn.Linear(width * size**2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K)``.

        Args:
            images: ``(N, C, image_size, image_size)``, normalised.

        Raises:
            ValueError: if the images have another size.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"expected images of image_size={self.image_size} pixels, got {tuple(images.shape)}")
        logits: Tensor = self.classifier(self.features(images))
        return logits


def _norm(kind: Norm | Literal["layer"], channels: int, size: int) -> nn.Module:
    return nn.LayerNorm((channels, size, size)) if kind == "layer" else make_norm(kind, channels)
