"""A small network for 8x8 images, cheap on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_condkd.models.norms import Norm, make_norm


class DigitsNet(nn.Module):
    """Three 3x3 convolutions, the second with stride 2, then global average pool and one linear layer.

    Args:
        num_classes: number of classes K.
        width: channels of the first two convolutions; the last has twice as many.
        in_channels: channels of the images.
        norm: ``batch`` (keeps running statistics), ``one_group`` (over channels and pixels), ``instance``, ``group`` or
            ``none``.

    Example:
        >>> import torch
        >>> DigitsNet()(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, *, width: int = 32, in_channels: int = 1, norm: Norm = "batch") -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(in_channels, width, 1, norm),
            *_block(width, width, 2, norm),
            *_block(width, 2 * width, 1, norm),
        )
        self.linear = nn.Linear(2 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K)``.

        Args:
            images: ``(N, C, H, W)``, normalised.
        """
        logits: Tensor = self.linear(self.features(images).mean((2, 3)))
        return logits


def _block(in_channels: int, channels: int, stride: int, norm: Norm) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=norm == "none")
    return conv, make_norm(norm, channels), nn.ReLU()
