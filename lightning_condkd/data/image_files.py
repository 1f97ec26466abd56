"""Image files that are decoded whenever they are used, for data that does not fit into memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple, overload

import torch
from PIL.Image import Image, Resampling, Transpose
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as transforms

from lightning_condkd.augment import ResizedCrop
from lightning_condkd.data.counts import empty_classes
from lightning_condkd.data.image_source import central_square
from lightning_condkd.formats.folders import open_image
from lightning_condkd.randomness import seeded_generator


class FileNames(Sequence[str]):
    """Paths of files in one block of memory, which worker processes share instead of copying it.

    Args:
        names: the paths.

    Example:
        >>> names = FileNames(["a/1.png", "b/2.png"])
        >>> len(names), names[1], list(names[:1])
        (2, 'b/2.png', ['a/1.png'])
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._text = b"".join(encoded)
        self._ends = torch.tensor([0, *accumulate(map(len, encoded))])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> FileNames: ...

    def __getitem__(self, row: int | slice) -> str | FileNames:
        if isinstance(row, slice):
            return FileNames([self[one] for one in range(*row.indices(len(self)))])
        place = range(len(self))[row]
        return os.fsdecode(self._text[int(self._ends[place]) : int(self._ends[place + 1])])

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))


class RandomBoxes(NamedTuple):
    """The random boxes of the images in an epoch; each depends on seed, epoch and row of its image alone.

    Args:
        crop: size, aspect ratio and flip of the boxes.
        seed: seed of the run.
        epoch: index of the epoch.
    """

    crop: ResizedCrop
    seed: int
    epoch: int

    def cut(self, image: Image, row: int, size: int) -> Image:
        """Return the box of an image, smoothed and stretched to a square.

        Args:
            image: the image.
            row: its row in the data set.
            size: side of the result in pixels.
        """
        drawn = self.crop.sample(1, seeded_generator(self.seed, f"crop/{self.epoch}", row))
        sides = torch.tensor([image.height, image.width], dtype=torch.float64)
        box = sides * self.crop.box_sides(drawn, image.height, image.width)[0]
        top, left = ((sides - box) * drawn["position"][0]).tolist()
        bottom, right = min(image.height, top + float(box[0])), min(image.width, left + float(box[1]))
        cut = image.resize((size, size), Resampling.BILINEAR, box=(left, top, right, bottom))
        return cut.transpose(Transpose.FLIP_LEFT_RIGHT) if bool(drawn["flip"]) else cut


@dataclass(frozen=True, eq=False)
class ImageFiles(Dataset[Tensor]):
    """Image files as a data set of uint8 images, decoded at every use.

    Args:
        files: paths of the files.
        labels: classes, ``(N,)`` int64; -1 where unknown.
        classes: names of the classes in the order of the labels; ``None`` if the classes are unknown.
        image_size: side in pixels of the central square of an image, see
            :func:`~lightning_condkd.data.image_source.central_square`; ``None`` keeps the size, which must be the same
            for all images.
        shorter_side: size in pixels to which the shorter side is resized before; ``None`` for ``image_size``.
        channels: 3 for RGB, 1 for gray.
    """

    files: FileNames
    labels: Tensor
    classes: tuple[str, ...] | None = None
    image_size: int | None = None
    shorter_side: int | None = None
    channels: int = 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Tensor:
        return self.read(torch.tensor([row]))[0]

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` in pixels; without ``image_size`` that of the first image."""
        if self.image_size is not None:
            return self.channels, self.image_size, self.image_size
        image = open_image(self.files[0], self.channels)
        return self.channels, image.height, image.width

    @property
    def counts(self) -> Tensor:
        """Images of each class, ``(K,)``; empty if the classes are unknown."""
        if self.classes is None:
            return self.labels.new_empty(0)
        return torch.bincount(self.labels, minlength=len(self.classes))

    @property
    def empty_classes(self) -> list[str]:
        """Names of the classes without an image."""
        return empty_classes(self.counts, self.classes)

    def describe(self) -> str:
        """Return a readable summary in one line."""
        shape = " x ".join(map(str, self.image_shape))
        if self.classes is None:
            return f"{len(self)} image files read as {shape}, without classes"
        low, high = int(self.counts.min()), int(self.counts.max())
        per_class = f"{low} to {high}" if low < high else f"{low}"
        return f"{len(self)} image files read as {shape}, {per_class} per class, {len(self.classes)} classes"

    def read(self, rows: Tensor, boxes: RandomBoxes | None = None) -> Tensor:
        """Return images, ``(n, C, H, W)`` uint8.

        Args:
            rows: ``(n,)`` int64.
            boxes: random boxes in place of the central squares.

        Raises:
            ValueError: if a file is broken, or its image has another size.
        """
        images = torch.empty(len(rows), *self.image_shape, dtype=torch.uint8)
        for place, row in enumerate(rows.tolist()):
            images[place] = self._pixels(row, boxes)
        return images

    def _pixels(self, row: int, boxes: RandomBoxes | None) -> Tensor:
        file = self.files[row]
        image = open_image(file, self.channels)
        if self.image_size is not None and boxes is not None:
            image = boxes.cut(image, row, self.image_size)
        elif self.image_size is not None:
            image = central_square(image, self.image_size, self.shorter_side)
        pixels: Tensor = transforms.pil_to_tensor(image)
        if pixels.shape != self.image_shape:
            shapes = f"{self.image_shape} and {tuple(pixels.shape)}"
            raise ValueError(f"expected images of one size, got {shapes} ({file}): set image_size to resize them")
        return pixels
