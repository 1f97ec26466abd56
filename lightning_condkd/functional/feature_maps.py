"""Comparisons of the feature maps of two networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32

_CONTEXT_SIZES = (4, 2, 1)


def map_error(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Return the mean squared difference of two maps over all their entries; nothing is detached.

    Args:
        student_maps: ``(N, C, H, W)``.
        teacher_maps: the same shape.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> map_error(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0))
        tensor(4.)
    """
    if student_maps.shape != teacher_maps.shape:
        raise ValueError(
            f"expected maps of one shape, got {tuple(student_maps.shape)} and {tuple(teacher_maps.shape)}: bring the "
            "student's to the channels, height and width of the teacher's"
        )
    return F.mse_loss(at_least_float32(student_maps), at_least_float32(teacher_maps))


def pool_to_smaller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool two maps to the smaller height and the smaller width of both.

    Args:
        first: ``(N, C, H, W)``.
        second: ``(N, C', H', W')``.

    Returns:
        Both with ``min(H, H')`` rows and ``min(W, W')`` columns.

    Example:
        >>> first, second = pool_to_smaller(torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4))
        >>> first.shape, second.shape
        (torch.Size([2, 3, 4, 4]), torch.Size([2, 5, 4, 4]))
    """
    height, width = (min(first.shape[axis], second.shape[axis]) for axis in (2, 3))
    return pool_to(first, (height, width)), pool_to(second, (height, width))


def pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool a map to a height and width; one of that size is returned unchanged.

    Args:
        maps: ``(N, C, H, W)``.
        size: height and width of the result.

    Example:
        >>> pool_to(torch.tensor([[[[1.0, 3.0]]]]), (1, 1))
        tensor([[[[2.]]]])
    """
    return maps if tuple(maps.shape[2:]) == size else F.adaptive_avg_pool2d(maps, size)


def gaussian_nll(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    r"""Return the negative logarithm of a normal density with one variance for each channel, without its constant.

    It is the mean of :math:`\frac12 \left( (t - \mu)^2 / \sigma_c^2 + \log \sigma_c^2 \right)` over all entries.

    Args:
        mean: predicted map, ``(N, C, H, W)``.
        variance: of each channel, ``(C,)``, positive.
        target: the same shape as the mean.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> maps = torch.zeros(1, 2, 2, 2)
        >>> gaussian_nll(maps, torch.ones(2), maps + 2)
        tensor(2.)

    References:
        Ahn et al.: "Variational Information Distillation for Knowledge Transfer", arXiv 1904.05835.
    """
    if mean.shape != target.shape or variance.shape != mean.shape[1:2]:
        raise ValueError(
            f"expected mean and target of one shape (N, C, H, W) and a variance (C,), got {tuple(mean.shape)}, "
            f"{tuple(target.shape)} and {tuple(variance.shape)}"
        )
    spread = at_least_float32(variance).view(1, -1, 1, 1)
    squared = (at_least_float32(mean) - at_least_float32(target)).square()
    return (squared / spread + spread.log()).mean() / 2


def hierarchical_context(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    r"""Return the distance of maps at their own size and pooled to 4x4, 2x2 and 1x1, summed over the stages.

    For each stage it is a weighted mean of mean squared differences: weight 1 at full size, then half of the weight
    before for each pooled size that is smaller than the map. Nothing is detached.

    Args:
        student_maps: one ``(N, C, H, W)`` for each stage.
        teacher_maps: the same shapes.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if there is no stage, or shapes differ.

    Example:
        >>> maps = torch.zeros(1, 2, 8, 8)
        >>> hierarchical_context([maps], [maps + 1])
        tensor(1.)

    References:
        Chen et al.: "Distilling Knowledge via Knowledge Review", arXiv 2104.09044; the sizes are in its code.
    """
    if not student_maps or len(student_maps) != len(teacher_maps):
        raise ValueError(
            f"expected as many maps of the student as of the teacher, one at least, got {len(student_maps)} and "
            f"{len(teacher_maps)}"
        )
    return torch.stack([_context(s, t) for s, t in zip(student_maps, teacher_maps, strict=True)]).sum()


def _context(student: Tensor, teacher: Tensor) -> Tensor:
    errors = [map_error(student, teacher)]
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    for size in _CONTEXT_SIZES:
        if size < min(student.shape[2:]):
            errors.append(map_error(pool_to(student, (size, size)), pool_to(teacher, (size, size))))
    weights = torch.tensor([0.5**order for order in range(len(errors))]).to(errors[0])
    return (weights * torch.stack(errors)).sum() / weights.sum()
