"""Real images in memory as uint8 tensors, and their decoding from folders."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as transforms

from lightning_condkd.data.class_files import list_class_files
from lightning_condkd.data.counts import count_line, empty_classes
from lightning_condkd.formats.folders import all_gray, image_files, open_images
from lightning_condkd.hashing import content_hash
from lightning_condkd.pixels import level_statistics
from lightning_condkd.progress import each


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A labelled set of images in memory; classes may be uneven.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels: classes, ``(N,)`` int64.
        class_names: names of the classes in the order of the labels.
        files: the files that they were read from, if any.

    Raises:
        ValueError: if shapes, dtypes or labels do not fit each other.

    Example:
        >>> source = ImageSource(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 1]), ("cat", "dog"))
        >>> source.num_classes, source.image_shape, source.class_rows[1]
        (2, (1, 8, 8), tensor([1, 2]))
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or not len(self.images):
            found = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise ValueError(f"images: expected uint8 (N, C, H, W) with N > 0, got {found}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"labels: expected int64 ({len(self.images)},), one for each image, got {found}")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(f"class_names: {self.num_classes} names for labels from {low} to {high}; name every class")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` in pixels."""
        return self.images.shape[1], self.images.shape[2], self.images.shape[3]

    @cached_property
    def class_rows(self) -> tuple[Tensor, ...]:
        """Rows of each class, int64; empty for a class without images."""
        return tuple((self.labels == label).nonzero().flatten() for label in range(self.num_classes))

    @cached_property
    def sha256(self) -> str:
        """Hash of images and labels."""
        return content_hash(self.images, self.labels)

    @property
    def empty_classes(self) -> list[str]:
        """Names of the classes without an image."""
        return empty_classes(self._counts, self.class_names)

    def describe(self) -> str:
        """Return a readable summary in one line."""
        return count_line(self.images, self._counts)

    @property
    def _counts(self) -> Tensor:
        return torch.bincount(self.labels, minlength=self.num_classes)

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel over all pixels, in the units of [0, 1]."""
        planes = self.images.unbind(1)
        return level_statistics(torch.stack([torch.bincount(plane.flatten(), minlength=256) for plane in planes]))


@dataclass(frozen=True, eq=False)
class UnlabeledImages(Dataset[Tensor]):
    """Images in memory whose classes are to be predicted.

    Args:
        images: ``(N, C, H, W)`` uint8.
        files: the files that they were read from, if any.
        classes: names of the classes, if they are known.

    Example:
        >>> images = UnlabeledImages(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), ("a.png", "b.png"))
        >>> len(images), images[1].shape
        (2, torch.Size([1, 8, 8]))
    """

    images: Tensor
    files: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        return self.images[row]

    def describe(self) -> str:
        """Return a line about the images for a person to read."""
        shape = " x ".join(map(str, self.images.shape[1:]))
        return f"{len(self)} images of {shape} ({str(self.images.dtype)[6:]})"


def from_folder(
    root: str | Path,
    image_size: int | None = None,
    channels: int | None = None,
    class_names: Sequence[str] | None = None,
) -> ImageSource:
    """Decode a folder with one subfolder of image files for each class.

    Files without the ending of an image are ignored with a warning.

    Args:
        root: the folder; classes are its subfolders, except hidden ones and ``__MACOSX``, in the order of
            :func:`~lightning_condkd.formats.folders.in_class_order`.
        image_size: size in pixels to which the shorter side is resized before the central square is cropped; ``None``
            keeps the size.
        channels: 3 for RGB, 1 for gray; ``None`` for gray (with a warning) if all images are stored so, else RGB.
        class_names: names of all classes in the order of the labels, in place of that order; a class may lack a folder.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: if the images have different sizes and ``image_size`` is not given, some are broken or have more
            than 8 bits for each channel, a subfolder is a part of the data instead of a class or is not among
            ``class_names``, or ``channels`` has another value.
    """
    _check_channels(channels)
    found = list_class_files(Path(root), class_names)
    images = open_images(found.files, channels or _stored_channels(Path(root), found.files))
    pixels, labels = decode(zip(images, found.labels.tolist(), strict=True), len(found.files), image_size, root)
    return ImageSource(pixels, labels, found.class_names, tuple(found.files))


def unlabeled_images(
    folder: str | Path,
    image_size: int | None = None,
    channels: int | None = None,
    class_names: Sequence[str] | None = None,
    *,
    deep: bool = True,
) -> UnlabeledImages:
    """Decode the image files of a folder, sorted by their names.

    Args:
        folder: the folder.
        image_size: see :func:`from_folder`.
        channels: see :func:`from_folder`.
        class_names: names of the classes that a network knows, if they are known.
        deep: whether to look into subfolders too, except hidden ones.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: see :func:`from_folder`.
    """
    _check_channels(channels)
    found = image_files(Path(folder)) if Path(folder).is_dir() else []
    files = [str(file) for file in found if deep or file.parent == Path(folder)]
    if not files:
        below = f" itself, but {len(found)} below it: predict='.' takes all" if found else ""
        raise FileNotFoundError(f"expected image files to predict in {folder}, found none{below}")
    images = open_images(files, channels or _stored_channels(Path(folder), files))
    pixels, _ = decode(((image, 0) for image in images), len(files), image_size, folder)
    return UnlabeledImages(pixels, tuple(files), tuple(class_names or ()))


def _check_channels(channels: int | None) -> None:
    if channels not in (None, 1, 3):
        raise ValueError(f"channels: expected 1, 3 or None, got {channels}")


def _stored_channels(root: Path, files: Sequence[str]) -> int:
    if not all_gray(files):
        return 3
    message = f"{root}: all {len(files)} images are gray and keep their one channel; set channels to 1 to say that this"
    warnings.warn(f"{message} is meant, or to 3 for RGB", stacklevel=3)
    return 1


def decode(
    dataset: Iterable[tuple[Image, int]], count: int, image_size: int | None = None, name: str | Path = "images"
) -> tuple[Tensor, Tensor]:
    """Return images as one tensor ``(N, C, H, W)`` uint8, and labels ``(N,)`` int64.

    Args:
        dataset: images with 8 bits for each channel, and classes.
        count: number of images.
        image_size: see :func:`from_folder`.
        name: name of the dataset for the display of progress.

    Raises:
        ValueError: if the images differ in size or channels.
    """
    images, labels = torch.empty(0), []
    for row, (image, label) in enumerate(each(dataset, f"reading {name}", count, "images")):
        pixels = transforms.pil_to_tensor(image if image_size is None else central_square(image, image_size))
        if not row:
            images = pixels.new_empty(count, *pixels.shape)
        if pixels.shape != images.shape[1:]:
            shapes = f"{tuple(images.shape[1:])} and {tuple(pixels.shape)}"
            cure = "set image_size to resize them" if len(pixels) == images.shape[1] else "set channels to convert them"
            raise ValueError(f"expected images of one size, got {shapes} (image {row}): {cure}")
        images[row] = pixels
        labels.append(label)
    return images, torch.tensor(labels)


def central_square(image: Image, size: int, shorter_side: int | None = None) -> Image:
    """Return the central square of an image.

    Args:
        image: the image.
        size: side of the square in pixels.
        shorter_side: size to which the shorter side is resized before; ``None`` for that of the square.
    """
    resized: Any = transforms.resize(cast(Any, image), [shorter_side or size])  # annotated for tensors, made for both
    return cast(Image, transforms.center_crop(resized, [size, size]))
