"""Networks that predict the teacher's feature map from the student's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.distillation.parts.map_pairs import MapShape
from lightning_condkd.precision import at_least_float32


def hint_regressor(student: MapShape, teacher: MapShape) -> nn.Sequential:
    """Return a convolution to the teacher's shape, BatchNorm and ReLU, as in RepDistiller.

    A map of twice the teacher's height and width gets a 3x3 convolution of stride 2, one of half the size a transposed
    4x4 convolution of stride 2, any other that is not smaller a convolution without padding whose kernel is as large as
    the difference demands.

    Args:
        student: shape of the student's map, ``(C, H, W)``.
        teacher: shape of the teacher's.

    Raises:
        ValueError: if the student's map is smaller, and not half the size.

    Example:
        >>> hint_regressor((16, 8, 8), (32, 16, 16))(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 32, 16, 16])
    """
    return nn.Sequential(_resizing_convolution(student, teacher), nn.BatchNorm2d(teacher[0]), nn.ReLU())


def _resizing_convolution(student: MapShape, teacher: MapShape) -> nn.Module:
    channels, (height, width), (rows, columns) = (student[0], teacher[0]), student[1:], teacher[1:]
    if (height, width) == (2 * rows, 2 * columns):
        return nn.Conv2d(*channels, 3, stride=2, padding=1)
    if (2 * height, 2 * width) == (rows, columns):
        return nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    if height < rows or width < columns:
        raise ValueError(
            f"FitNet: expected a student's map of the teacher's height and width, half of them, or larger, got "
            f"{student} and {teacher} (channels, height, width): name a student_map of an earlier stage, or a "
            "teacher_map of a later one"
        )
    return nn.Conv2d(*channels, (1 + height - rows, 1 + width - columns))


class VariationalRegressor(nn.Module):
    """Normal distribution of the teacher's map given the student's: three 1x1 convolutions give its mean.

    The variance of each channel is a parameter, independent of the image.

    Args:
        in_channels: channels of the student's map.
        out_channels: channels of the teacher's map, also the width of the hidden layers as in RepDistiller.
        initial_variance: variance of every channel at the start, above ``eps``.
        eps: smallest variance.

    Example:
        >>> mean, variance = VariationalRegressor(4, 8)(torch.rand(2, 4, 5, 5))
        >>> mean.shape, variance.shape, round(variance[0].item(), 4)
        (torch.Size([2, 8, 5, 5]), torch.Size([8]), 5.0)

    References:
        Ahn et al.: "Variational Information Distillation for Knowledge Transfer", arXiv 1904.05835.
    """

    def __init__(self, in_channels: int, out_channels: int, initial_variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
        )
        start = initial_variance - eps
        inverse_softplus = start + math.log(-math.expm1(-start))
        self.variance_logit = nn.Parameter(torch.full((out_channels,), inverse_softplus))
        self.eps = eps

    @property
    def variance(self) -> Tensor:
        """Variance of each channel, ``(C,)``, in float32 at least."""
        return F.softplus(at_least_float32(self.variance_logit)) + self.eps

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean ``(N, out_channels, H, W)`` and variance ``(out_channels,)``.

        Args:
            maps: ``(N, in_channels, H, W)``.
        """
        mean: Tensor = self.mean(maps)
        return mean, self.variance
