"""Format of IDC, DREAM and NCFM, a list of images and labels; an image may pack several in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.files import read_untrusted
from lightning_condkd.formats.contents import Contents, build, check_images, provenance_of, what_is
from lightning_condkd.formats.normalizations import Normalization, known_classes
from lightning_condkd.formats.soft_labels import SoftLabelKind

# The sources clamp to [0, 1] before every step, so only the last step can leave it; normalised images go far beyond.
_PIXEL_RANGE = (-0.5, 1.5)


def decode_tiles(images: Tensor, labels: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Unpack images: cut each into tiles and enlarge every tile to full size.

    An image is cut row by row into factor x factor tiles. The result has the first tile of all images, then the second
    of all images and so on. A side that is not divisible is first padded with gray (0.5) at its end, as in the official
    code.

    Args:
        images: ``(N, C, H, W)`` floating point, in the units of [0, 1].
        labels: classes ``(N,)``, or soft labels ``(N, K)``.
        factor: tiles along each side; 1 changes nothing.

    Returns:
        Images ``(factor * factor * N, C, H, W)``, enlarged bilinearly, and their labels.

    Raises:
        ValueError: if the factor is not positive, or larger than a side.

    Example:
        >>> import torch
        >>> packed = torch.arange(4.0).view(1, 1, 2, 2)
        >>> images, labels = decode_tiles(packed, torch.tensor([7]), factor=2)
        >>> images[:, 0, 0, 0], labels
        (tensor([0., 1., 2., 3.]), tensor([7, 7, 7, 7]))

    References:
        Kim et al.: Dataset Condensation via Efficient Synthetic-Data Parameterization, arXiv 2205.14959.
    """
    count, channels, height, width = images.shape
    if not 1 <= factor <= min(height, width):
        raise ValueError(f"factor: expected 1 to {min(height, width)} tiles along a side, got {factor}")
    if factor == 1:
        return images, labels
    filled = F.pad(images, (0, -width % factor, 0, -height % factor), value=0.5)
    grid = filled.reshape(count, channels, factor, filled.shape[2] // factor, factor, filled.shape[3] // factor)
    tiles = grid.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)
    enlarged = F.interpolate(tiles, (height, width), mode="bilinear", align_corners=False)
    return enlarged, labels.repeat(factor * factor, *[1] * (labels.dim() - 1))


def import_idc(
    path: str | Path, *, factor: int, dataset: str | None = None, label_kind: SoftLabelKind | None = None
) -> Contents:
    """Read a list ``[images, labels]`` written by IDC, DREAM or NCFM, and unpack its images.

    The pixels are in the units of [0, 1], so no normalisation is undone. The sources do not clamp the last step before
    saving, so neither does this. The file does not record how many images a stored one packs.

    Args:
        path: usually ``data.pt`` (IDC), ``data{iteration}.pt`` (DREAM) or ``data_{iteration}.pt`` (NCFM).
        factor: the ``factor`` of the source's command line: a stored image packs factor x factor images. 1 for plain
            images (IDC-I); IDC uses 2, and 3 on ImageNet.
        dataset: the dataset, which determines the number of classes.
        label_kind: kind of the soft labels; by default determined from their values.

    Raises:
        ValueError: if the file is of another kind, or its images are not in pixels.

    References:
        Kim et al.: Dataset Condensation via Efficient Synthetic-Data Parameterization, arXiv 2205.14959.
        Liu et al.: DREAM: Efficient Dataset Distillation by Representative Matching, arXiv 2302.14416.
        Wang et al.: Dataset Distillation with Neural Characteristic Function, arXiv 2502.20653.
    """
    path = Path(path)
    content = read_untrusted(path)
    if not is_list_of_two(content):
        raise ValueError(f"expected a list [images, labels] in {path}, got {what_is(content)}: give a file of IDC")
    return read_idc(content[0], content[1], path, factor, dataset, label_kind)


def is_list_of_two(content: object) -> TypeGuard[Sequence[Tensor]]:
    """Return whether a file's content is a list of images ``(N, C, H, W)`` and their labels.

    Args:
        content: content of the file.
    """
    if not isinstance(content, list | tuple) or len(content) != 2:
        return False
    images, labels = content
    return isinstance(images, Tensor) and isinstance(labels, Tensor) and images.dim() == 4


def read_idc(
    images: Tensor,
    labels: Tensor,
    path: Path,
    factor: int | None,
    dataset: str | None,
    label_kind: SoftLabelKind | None,
) -> Contents:
    """Return the set of a list.

    Args:
        images: ``(N, C, H, W)``, packed.
        labels: their labels.
        path: the file.
        factor: tiles along each side; ``None`` is refused.
        dataset: the dataset.
        label_kind: kind of the soft labels; ``None`` determines it from their values.

    Raises:
        ValueError: see :func:`import_idc`.
    """
    if factor is None:
        raise ValueError(
            f"{path.name} holds a list [images, labels] as IDC, DREAM and NCFM write it. A stored image may pack "
            "factor x factor images, but the file does not record it: pass factor (--factor) as in the source's "
            "command line. 1 means plain images (IDC-I); IDC uses 2, and 3 on ImageNet"
        )
    check_images(images, path)
    low, high = float(images.min()), float(images.max())
    if low < _PIXEL_RANGE[0] or high > _PIXEL_RANGE[1]:
        raise ValueError(
            f"{path.name} has values from {low:.2f} to {high:.2f}, but IDC, DREAM and NCFM store pixels in [0, 1]: "
            "normalised images are read as a pair, torch.save(images, 'images_best.pt') and "
            "torch.save(labels, 'labels_best.pt')"
        )
    pixels, repeated = decode_tiles(images.detach().float(), labels, factor)
    return build(
        pixels,
        repeated,
        Normalization((), (), known_classes(dataset)),
        label_kind,
        method="IDC family",
        settings={"dataset": dataset, "factor": factor},
        provenance=provenance_of("IDC list", path) | {"stored images": str(len(images))},
    )
