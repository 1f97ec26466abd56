"""Classifiers on the outputs of a network's stages: maps of convolutional networks, tokens of transformers."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

FINAL_GRID, ATTENTION_HEADS = 7, 4


def convolutional_head(channels: int, halvings: int, width: int, num_classes: int) -> nn.Sequential:
    """Return a head for maps ``(N, C, H, W)``: separable convolutions, the mean over positions and a linear layer.

    Args:
        channels: C of the map.
        halvings: number of blocks of separable convolutions, each of which halves the map and doubles the channels; 0
            for a 1x1 convolution instead.
        width: channels before the linear layer.
        num_classes: number of classes.

    Example:
        >>> convolutional_head(4, halvings=2, width=16, num_classes=10)(torch.rand(2, 4, 8, 8)).shape
        torch.Size([2, 10])
    """
    widths = [channels * 2**i for i in range(halvings)] + [width]
    blocks: list[nn.Module] = [_halving(*pair) for pair in pairwise(widths)]
    blocks = blocks or [nn.Conv2d(channels, width, 1)]
    return _initialized(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)))


def _halving(channels: int, out_channels: int) -> nn.Sequential:
    """Return two separable convolutions, the first with stride 2."""
    layers: list[nn.Module] = []
    for stride, made in ((2, channels), (1, out_channels)):
        depthwise = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        layers += [depthwise, nn.Conv2d(channels, made, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
    return nn.Sequential(*layers)


def token_head(tokens: int, channels: int, blocks: int, width: int, num_classes: int) -> nn.Sequential:
    """Return a head for tokens ``(N, L, D)`` of a transformer: merged patches, attention blocks and a linear layer.

    The patches are the largest square number of tokens, the last ones; what stands before them are class tokens. Of
    grids of 14 x 14 patches and more, every 2 x 2 are merged until the grid is about 7 x 7, as in the official code for
    images of 224 pixels. The class is read from the first class token, from the mean of the patches without one.

    Args:
        tokens: L, with class tokens.
        channels: D of the tokens.
        blocks: number of attention blocks.
        width: channels before the linear layer; D if there are class tokens.
        num_classes: number of classes.

    Raises:
        ValueError: if the width does not fit to the attention heads or the class tokens.

    Example:
        >>> token_head(1 + 14 * 14, channels=8, blocks=1, width=8, num_classes=10)(torch.rand(2, 197, 8)).shape
        torch.Size([2, 10])
    """
    grid = math.isqrt(tokens)
    class_tokens = tokens - grid**2
    if width % ATTENTION_HEADS:
        raise ValueError(f"expected a width that {ATTENTION_HEADS} attention heads divide, got {width}: set head_width")
    if class_tokens and width != channels:
        raise ValueError(
            f"expected a width of {channels}, that of the class tokens in the stage's {tokens} tokens, got {width}: "
            f"set head_width to {channels}"
        )
    layers: list[nn.Module] = [PatchMerger(grid, channels, width, class_tokens)]
    layers += [_attention_block(width) for _ in range(blocks)]
    return _initialized(nn.Sequential(*layers, TokenPooling(class_tokens), nn.Linear(width, num_classes)))


class PatchMerger(nn.Module):
    """Merging of every 2 x 2 patches by LayerNorm, a linear layer and GELU, as often as the grid can spare it.

    Args:
        grid: patches in a row and in a column.
        channels: of the tokens.
        width: channels of the result.
        class_tokens: tokens before the patches, which stay as they are.

    Example:
        >>> PatchMerger(grid=28, channels=8, width=16)(torch.rand(2, 28 * 28, 8)).shape
        torch.Size([2, 49, 16])
    """

    def __init__(self, grid: int, channels: int, width: int, class_tokens: int = 0) -> None:
        super().__init__()
        self.class_tokens = class_tokens
        self.merges = nn.ModuleList()
        while grid >= 2 * FINAL_GRID and grid % 2 == 0:
            grid //= 2
            last = grid < 2 * FINAL_GRID or grid % 2
            activation = nn.Identity() if self.merges and last else nn.GELU()  # as in the official code
            layers = (nn.LayerNorm(4 * channels), nn.Linear(4 * channels, width, bias=False), activation)
            self.merges.append(nn.Sequential(*layers))
            channels = width
        self.projection = nn.Identity() if channels == width else nn.Linear(channels, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return class tokens and merged patches.

        Args:
            tokens: ``(N, L, D)``.
        """
        patches = tokens[:, self.class_tokens :]
        for merge in self.merges:
            patches = merge(_two_by_two(patches))
        patches = self.projection(patches)
        return torch.cat([tokens[:, : self.class_tokens], patches], dim=1) if self.class_tokens else patches


def _two_by_two(patches: Tensor) -> Tensor:
    """Return patches ``(N, L / 4, 4 D)``: of every 2 x 2 the left column, then the right one."""
    batch, count, channels = patches.shape
    half = math.isqrt(count) // 2
    grid = patches.reshape(batch, half, 2, half, 2, channels)
    return grid.permute(0, 1, 3, 4, 2, 5).reshape(batch, half**2, 4 * channels)


def _attention_block(width: int) -> nn.TransformerEncoderLayer:
    arguments = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    return nn.TransformerEncoderLayer(width, ATTENTION_HEADS, 4 * width, **arguments)  # type: ignore[arg-type]


class TokenPooling(nn.Module):
    """The first class token, or the mean of all tokens where there is none.

    Args:
        class_tokens: number of class tokens.
    """

    def __init__(self, class_tokens: int) -> None:
        super().__init__()
        self.class_tokens = class_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(N, D)``.

        Args:
            tokens: ``(N, L, D)``.
        """
        return tokens[:, 0] if self.class_tokens else tokens.mean(1)


def _initialized(head: nn.Sequential) -> nn.Sequential:
    """Draw the weights as the official code does."""
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.MultiheadAttention):
            nn.init.trunc_normal_(layer.in_proj_weight, std=0.02)
    return head
