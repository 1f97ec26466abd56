"""CutMix: boxes of one image pasted into another, and the mixed labels."""

from __future__ import annotations

import torch
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
    height, width = images.shape[2:]
    bounds = box_bounds(torch.tensor([share]).double(), torch.tensor([center]).double(), (height, width))
    top, left, bottom, right = bounds[0].tolist()
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partners][:, :, top:bottom, left:right]
    return mixed, float(box_shares(bounds, (height, width)))


def box_bounds(share: Tensor, center: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return boxes with the aspect ratio of the image, cut at its border.

    Args:
        share: area of each box before it is cut, as a share of the image's area, ``(N,)``.
        center: middle of each box, as shares of height and width, in [0, 1), ``(N, 2)``.
        image_size: height and width in pixels.

    Returns:
        Top, left, bottom and right of each box in whole pixels, ``(N, 4)`` int64; bottom and right are outside.

    Example:
        >>> box_bounds(torch.tensor([0.25]), torch.tensor([[0.5, 0.0]]), (4, 4))
        tensor([[1, 0, 3, 1]])
    """
    sides = torch.tensor(image_size)
    half = (sides * share.double().sqrt()[:, None]).long() // 2
    middle = (sides * center.double()).long()
    return torch.cat([(middle - half).clamp(min=0), torch.minimum(middle + half, sides)], dim=1)


def rounded_box(share: float, center: tuple[float, float], image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a box with the aspect ratio of the image, cut at its border, its edges rounded after the cut.

    On small maps, such as latents of 4x4, it depends more evenly on the share than :func:`box_bounds`, whose sides are
    even.

    Args:
        share: area of the box before it is cut, as a share of the image's area.
        center: middle of the box, as shares of height and width, in [0, 1).
        image_size: height and width in pixels.

    Returns:
        Top, left, bottom and right in whole pixels; bottom and right are outside.

    Example:
        >>> rounded_box(0.5, (0.5, 0.0), (4, 4))
        (1, 0, 3, 1)
    """
    edges = [
        [round(min(max(side * (middle + sign * share**0.5 / 2), 0), side)) for sign in (-1, 1)]
        for side, middle in zip(image_size, center, strict=True)
    ]
    (top, bottom), (left, right) = edges
    return top, left, bottom, right


def box_shares(bounds: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the area of boxes as a share of the image's area, ``(N,)`` float64.

    Args:
        bounds: from :func:`box_bounds`, ``(N, 4)``.
        image_size: height and width in pixels.
    """
    area = (bounds[:, 2:] - bounds[:, :2]).prod(dim=1)
    return area.double() / (image_size[0] * image_size[1])


def box_masks(bounds: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the pixels inside of boxes, ``(N, H, W)`` boolean.

    Args:
        bounds: from :func:`box_bounds`, ``(N, 4)``.
        image_size: height and width in pixels.

    Example:
        >>> box_masks(torch.tensor([[1, 0, 2, 1]]), (2, 2))
        tensor([[[False, False],
                 [ True, False]]])
    """
    top, left, bottom, right = bounds[:, :, None].unbind(1)
    rows, columns = (torch.arange(side, device=bounds.device) for side in image_size)
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]


def mix_labels(probabilities: Tensor, partners: Tensor, share: float) -> Tensor:
    """Return the labels of mixed images, weighted by area.

    Args:
        probabilities: ``(N, K)``.
        partners: index of the image that each box comes from, ``(N,)`` int64.
        share: share of the area that comes from the other image.

    Example:
        >>> mix_labels(torch.eye(2), torch.tensor([1, 0]), share=0.25)
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """
    return (1 - share) * probabilities + share * probabilities[partners]
