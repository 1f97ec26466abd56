"""Attention maps of a layer, and the distance between those of two networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32


def attention_map(maps: Tensor) -> Tensor:
    """Return for each image the mean over channels of the squared activations, as a vector of length 1.

    Args:
        maps: output of a layer, ``(N, C, H, W)``.

    Returns:
        ``(N, H * W)`` in float32 at least; zeros where no unit is active.

    Example:
        >>> attention_map(torch.tensor([[[[3.0, 0.0]], [[0.0, 3.0]]]]))
        tensor([[0.7071, 0.7071]])

    References:
        Zagoruyko and Komodakis: "Paying More Attention to Attention", arXiv 1612.03928.
    """
    return F.normalize(at_least_float32(maps).square().mean(1).flatten(1), dim=1)


def attention_transfer(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    r"""Return the distance between attention maps of two networks, :math:`\sum_b \mathrm{mean} (A(s_b) - A(t_b))^2`.

    The means are over images and positions; nothing is detached.

    Args:
        student_maps: one ``(N, C, H, W)`` for each block.
        teacher_maps: likewise; channels may differ.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if there is no block, or batch size, height or width differ.

    Example:
        >>> maps = torch.rand(2, 4, 8, 8)
        >>> attention_transfer([maps], [3 * maps]).item() < 1e-12
        True

    References:
        Zagoruyko and Komodakis: "Paying More Attention to Attention", arXiv 1612.03928; the mean is in its code.
    """
    _check(student_maps, teacher_maps)
    pairs = zip(student_maps, teacher_maps, strict=True)
    return torch.stack([(attention_map(s) - attention_map(t)).square().mean() for s, t in pairs]).sum()


def _check(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> None:
    student, teacher = ([tuple(m.shape[:1] + m.shape[2:]) for m in maps] for maps in (student_maps, teacher_maps))
    if not student or student != teacher or any(len(shape) != 3 for shape in student):
        expected = "expected maps (N, C, H, W) in pairs of the same batch, height and width"
        got = f"got {[tuple(m.shape) for m in student_maps]} and {[tuple(m.shape) for m in teacher_maps]}"
        raise ValueError(f"attention_transfer: {expected}, {got}; name blocks of the same resolution in both networks")
