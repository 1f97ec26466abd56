"""What a picture is expected to be: smooth and of moderate size."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_condkd.precision import at_least_float32

TotalVariation = Literal["l2", "l1"]
ImageNorm = Literal["batch", "image"]


def total_variation(images: Tensor, form: TotalVariation = "l2") -> Tensor:
    r"""Return how much neighbouring pixels differ, over the four directions right, down and both diagonals.

    With :math:`d_k` the differences of the whole batch in direction k, ``l2`` is :math:`\sum_k \|d_k\|_2`, which grows
    with the square root of the batch and of the area, and ``l1`` is :math:`\sum_k \mathrm{mean} |d_k|`, which grows
    with neither. The gradient of ``l2`` at constant images is zero.

    Args:
        images: ``(N, C, H, W)``, in any units; DeepInversion's are those of normalised pixels.
        form: ``l2`` or ``l1``.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the form is unknown.

    Example:
        >>> image = torch.tensor([[[[0.0, 3.0], [0.0, 3.0]]]])
        >>> total_variation(image).round(decimals=3), total_variation(image, "l1")
        (tensor(10.2430), tensor(9.))

    References:
        Yin et al.: "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", arXiv 1912.08795; its code.
    """
    if form not in ("l2", "l1"):
        raise ValueError(f"form of the total variation: expected 'l2' or 'l1', got {form!r}")
    x = at_least_float32(images)
    right, down = x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]
    falling, rising = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., 1:, :-1]
    differences = (right, down, falling, rising)
    sizes = [torch.linalg.vector_norm(d) if form == "l2" else d.abs().mean() for d in differences]
    return torch.stack(sizes).sum()


def image_norm(images: Tensor, form: ImageNorm = "batch") -> Tensor:
    r"""Return the Euclidean norm of images.

    Args:
        images: ``(N, C, H, W)``, in any units; DeepInversion's are those of normalised pixels.
        form: ``batch`` for the norm of the batch as one vector, ``image`` for the mean of the images' norms.

    Returns:
        A scalar in float32 at least. Its gradient at zero is zero.

    Raises:
        ValueError: if the form is unknown.

    Example:
        >>> images = torch.tensor([3.0, 4.0]).view(2, 1, 1, 1)
        >>> image_norm(images), image_norm(images, "image")
        (tensor(5.), tensor(3.5000))

    References:
        Yin et al.: "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", arXiv 1912.08795; its code
        has ``batch`` for CIFAR-10 and ``image`` for ImageNet.
    """
    if form not in ("batch", "image"):
        raise ValueError(f"form of the image norm: expected 'batch' or 'image', got {form!r}")
    norms: Tensor = torch.linalg.vector_norm(at_least_float32(images).flatten(1), dim=1)
    return torch.linalg.vector_norm(norms) if form == "batch" else norms.mean()
