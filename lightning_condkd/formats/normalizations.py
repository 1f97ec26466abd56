"""Normalisation constants of public code bases, which differ for the same dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_condkd.normalization import channel_values


class Normalization(NamedTuple):
    """Normalisation of a dataset in a public code base.

    Args:
        mean: channel means in the units of [0, 1]; empty for images that are already in pixels.
        std: channel standard deviations in the units of [0, 1].
        num_classes: number of classes of the dataset; ``None`` if unknown.

    Example:
        >>> gray = Normalization((0.5,), (0.25,), None)
        >>> gray.apply(torch.ones(1, 1, 1, 1)), gray.undo(torch.full((1, 1, 1, 1), 2.0))
        (tensor([[[[2.]]]]), tensor([[[[1.]]]]))
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int | None

    def undo(self, images: Tensor) -> Tensor:
        """Return normalised images in the units of [0, 1], never clipped.

        Args:
            images: ``(N, C, H, W)`` floating point, normalised.

        Raises:
            ValueError: if images and constants differ in channels.
        """
        if not self.mean:
            return images
        mean, std = self._columns(images)
        return images * std + mean

    def apply(self, images: Tensor) -> Tensor:
        """Return images normalised as in the code base.

        Args:
            images: ``(N, C, H, W)`` floating point, in the units of [0, 1].

        Raises:
            ValueError: images and constants differ in channels.
        """
        mean, std = self._columns(images)
        return (images - mean) / std

    def _columns(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not len(self.mean) == len(self.std) == images.shape[1]:
            raise ValueError(
                f"images have {images.shape[1]} channels, mean and std {len(self.mean)} and {len(self.std)}: "
                "check dataset, mean and std"
            )
        mean, std = (torch.tensor(values, dtype=images.dtype).view(-1, 1, 1) for values in (self.mean, self.std))
        return mean, std


class GivenConstants(NamedTuple):
    """The user's choice of normalisation.

    Args:
        dataset: name of the dataset.
        mean: channel means, in place of the dataset's.
        std: channel standard deviations, in place of the dataset's.
    """

    dataset: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


_CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 10)
_TINY = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 200)

# Constants of https://github.com/VICO-UoE/DatasetCondensation, also of DataDAM and DC-BENCH
DC_CONSTANTS: Mapping[str, Normalization] = {
    "mnist": Normalization((0.1307,), (0.3081,), 10),
    "fashionmnist": Normalization((0.2861,), (0.3530,), 10),
    "svhn": Normalization((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 10),
    "cifar10": _CIFAR10,
    "cifar100": Normalization((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762), 100),
    "tinyimagenet": _TINY,
    "tiny": _TINY,
}

# Constants of https://github.com/GeorgeCazenavette/mtt-distillation: CIFAR-100 uses those of CIFAR-10.
MTT_CONSTANTS: Mapping[str, Normalization] = {
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR10._replace(num_classes=100),
    "tinyimagenet": _TINY,
    "tiny": _TINY,
}

# Constants of https://github.com/NUS-HPC-AI-Lab/DD-Ranking (ddranking/utils/data.py): CIFAR-100 uses those of CIFAR-10,
# all others those of ImageNet.
DD_RANKING_CONSTANTS: Mapping[str, Normalization] = {
    **MTT_CONSTANTS,
    **dict.fromkeys(
        ("imagenette", "imagewoof", "imagemeow", "imagesquawk", "imagefruit", "imageyellow"),
        _TINY._replace(num_classes=10),
    ),
    "imagenet1k": _TINY._replace(num_classes=1000),
}

# In the order of the labels. Other datasets need none: digits are named by numbers, the rest is in sorted order.
CLASS_NAMES: Mapping[str, tuple[str, ...]] = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "fashionmnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}


def known_class_names(dataset: str | None) -> tuple[str, ...] | None:
    """Return the names of a dataset's classes in the order of its labels, ``None`` if unknown.

    Args:
        dataset: the name in any spelling.

    Example:
        >>> known_class_names("Fashion-MNIST")[0], known_class_names("flowers")
        ('T-shirt/top', None)
    """
    return CLASS_NAMES.get(_key(dataset))


def known_classes(dataset: str | None) -> int | None:
    """Return the number of classes of a dataset by its name, ``None`` if unknown.

    Args:
        dataset: the name in any spelling.

    Example:
        >>> known_classes("CIFAR-100"), known_classes("flowers")
        (100, None)
    """
    known = {**DD_RANKING_CONSTANTS, **DC_CONSTANTS}.get(_key(dataset))
    return known.num_classes if known else None


def find_normalization(table: Mapping[str, Normalization], constants: GivenConstants, what: str) -> Normalization:
    """Return the constants of the user's choice.

    Args:
        table: constants of a code base by dataset.
        constants: the dataset, or the constants themselves.
        what: purpose of the constants, for the error message.

    Raises:
        ValueError: if neither is given, or mean or std alone, or a value is not finite or not in the units of [0, 1].
    """
    if (constants.mean is None) != (constants.std is None):
        raise ValueError("mean and std belong together: pass both (--mean, --std)")
    if constants.mean is not None and constants.std is not None:
        mean, std = channel_values("mean", constants.mean), channel_values("std", constants.std)
        return Normalization(mean, std, known_classes(constants.dataset))
    if (known := table.get(_key(constants.dataset))) is None:
        raise ValueError(
            f"the normalisation of {what} is not known for dataset {constants.dataset!r}: pass dataset (--dataset), "
            f"one of {', '.join(table)}, or mean and std (--mean, --std)"
        )
    return known


def _key(dataset: str | None) -> str:
    return (dataset or "").lower().replace("-", "").replace("_", "")
