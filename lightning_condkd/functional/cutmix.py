"""CutMix: boxes of one image pasted into another, and the mixed labels."""

from __future__ import annotations

import math

from torch import Tensor


def cutmix(images: Tensor, partners: Tensor, share: float, center: tuple[float, float]) -> tuple[Tensor, float]:
    """Paste a box of another image of the batch into each image, at the same place in all.

    The box has the aspect ratio of the image and is cut at the image's border, so its true share may be smaller.

    Args:
        images: ``(N, C, H, W)``.
        partners: index of the image that each box comes from, ``(N,)`` int64.
        share: area of the box before it is cut, as a share of the image's area.
        center: middle of the box, as shares of height and width, in [0, 1).

    Returns:
        The images, and the share of their area that comes from the other image.

    Example:
        >>> import torch
        >>> images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> mixed, share = cutmix(images, torch.tensor([1, 0]), share=0.25, center=(0.5, 0.0))
        >>> mixed[0, 0], share
        (tensor([[0., 0., 0., 0.],
                 [1., 0., 0., 0.],
                 [1., 0., 0., 0.],
                 [0., 0., 0., 0.]]), 0.125)

    References:
        Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
        arXiv 1905.04899.
    """
    rows, columns = (_span(size, share, at) for size, at in zip(images.shape[2:], center, strict=True))
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[partners][:, :, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, area / images[0, 0].numel()


def _span(size: int, share: float, center: float) -> slice:
    half, middle = int(size * math.sqrt(share)) // 2, int(size * center)
    return slice(max(0, middle - half), min(size, middle + half))


def mix_labels(probabilities: Tensor, partners: Tensor, share: float) -> Tensor:
    """Return the labels of mixed images, weighted by area.

    Args:
        probabilities: ``(N, K)``.
        partners: index of the image that each box comes from, ``(N,)`` int64.
        share: share of the area that comes from the other image.

    Example:
        >>> import torch
        >>> mix_labels(torch.eye(2), torch.tensor([1, 0]), share=0.25)
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """
    return (1 - share) * probabilities + share * probabilities[partners]
