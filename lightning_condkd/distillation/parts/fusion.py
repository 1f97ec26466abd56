"""Blocks that fuse the feature maps of a student from its last stage to its first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.distillation.parts.map_pairs import MapShape


class FusionBlock(nn.Module):
    """Fuse a stage's map with the fused map of the deeper stages by an attention over positions.

    A 1x1 convolution with BatchNorm brings the map to the common width. The deeper map is enlarged to its size, and a
    1x1 convolution with sigmoid gives each of the two a weight for every position. The sum, resized to the teacher's
    height and width (nearest), goes on to the next block; a 3x3 convolution with BatchNorm brings it to the teacher's
    channels.

    Args:
        in_channels: channels of the student's map.
        width: channels of the fused map.
        teacher: shape of the teacher's map, ``(C, H, W)``.
        deepest: whether there is no deeper map.

    Example:
        >>> block = FusionBlock(8, 16, (4, 8, 8))
        >>> output, fused = block(torch.rand(2, 8, 8, 8), torch.rand(2, 16, 4, 4))
        >>> output.shape, fused.shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2, 16, 8, 8]))

    References:
        Chen et al.: "Distilling Knowledge via Knowledge Review", arXiv 2104.09044.
    """

    def __init__(self, in_channels: int, width: int, teacher: MapShape, *, deepest: bool = False) -> None:
        super().__init__()
        self.size = teacher[1:]
        self.inwards = _normalized_convolution(in_channels, width, 1)
        self.outwards = _normalized_convolution(width, teacher[0], 3)
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())

    def forward(self, maps: Tensor, deeper: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the map to compare, ``(N, C, H, W)`` of the teacher's shape, and the fused one, ``(N, width, H, W)``.

        Args:
            maps: the student's map, ``(N, in_channels, H', W')``.
            deeper: fused map of the deeper stages, ``(N, width, H'', W'')``; not for the deepest.
        """
        fused: Tensor = self.inwards(maps)
        if self.attention is not None and deeper is not None:
            deeper = _resized(deeper, fused.shape[2:])
            weights = self.attention(torch.cat([fused, deeper], dim=1))
            fused = fused * weights[:, :1] + deeper * weights[:, 1:]
        fused = _resized(fused, self.size)
        return self.outwards(fused), fused


class FusionChain(nn.Module):
    """Blocks for all stages, applied from the deepest to the first.

    Args:
        stages: shapes of the student's and of the teacher's map of each stage, the first first.
        max_width: upper limit of the width of the fused map, which is else that of the student's deepest map.

    Example:
        >>> chain = FusionChain([((4, 8, 8), (6, 8, 8)), ((8, 4, 4), (9, 4, 4))])
        >>> [tuple(maps.shape) for maps in chain([torch.rand(2, 4, 8, 8), torch.rand(2, 8, 4, 4)])]
        [(2, 6, 8, 8), (2, 9, 4, 4)]
    """

    def __init__(self, stages: Sequence[tuple[MapShape, MapShape]], max_width: int = 512) -> None:
        super().__init__()
        width, last = min(max_width, stages[-1][0][0]), len(stages) - 1
        self.blocks = nn.ModuleList(
            FusionBlock(student[0], width, teacher, deepest=index == last)
            for index, (student, teacher) in enumerate(stages)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return a map of the teacher's shape for each stage.

        Args:
            maps: the student's, one ``(N, C, H, W)`` for each stage, the first first.
        """
        outputs: list[Tensor] = []
        fused: Tensor | None = None
        for block, stage in zip(reversed(self.blocks), reversed(maps), strict=True):
            output, fused = block(stage, fused)
            outputs.insert(0, output)
        return outputs


def _normalized_convolution(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return maps if maps.shape[2:] == torch.Size(size) else F.interpolate(maps, list(size), mode="nearest")
