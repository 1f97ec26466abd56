"""DataModule of image files that do not fit into memory, read by worker processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_condkd import distributed
from lightning_condkd.augment import ResizedCrop
from lightning_condkd.data.class_files import ClassFiles, list_class_files
from lightning_condkd.data.file_batches import FileBatches, FileLoader
from lightning_condkd.data.image_files import FileNames, ImageFiles
from lightning_condkd.data.row_orders import RowsInOrder, ShuffledRows
from lightning_condkd.data.shuffled_datamodule import (
    Share,
    ShuffledDataModule,
    check_enough_to_predict,
    check_same,
    share_of_this_process,
    warn_of_empty_classes,
)
from lightning_condkd.formats.folders import image_files
from lightning_condkd.hashing import content_hash
from lightning_condkd.messages import listed

MOST_WORKERS = 8


class StreamedFolderDataModule(ShuffledDataModule):
    """Image files with one subfolder for each class, or without classes, decoded by workers at every use.

    For the same seed the batches are those of :class:`~lightning_condkd.data.ImageFolderDataModule`, whatever the
    number of workers, and a resumed run continues with the next batch without decoding those before it. Files are
    listed at the start, but not opened: a broken one ends the run with its name when it is its turn.

    Args:
        root: folder that contains the parts.
        train: name of the folder of training images in ``root``, ``.`` for ``root`` itself.
        val: name of the folder of held-out images in ``root``, with one subfolder for each class; ``None`` without any.
        labeled: whether subfolders of the training images are classes; if not, all images below the folder are taken,
            and their labels are -1.
        image_size: side in pixels of the images: the shorter side is resized before the central square is cropped;
            ``None`` keeps the size, which must be the same for all images.
        shorter_side: size in pixels to which the shorter side is resized; ``None`` for ``image_size``. With an
            ``image_size`` of 224, networks for ImageNet are usually tested at 256.
        crop: random box of each training image, from the whole image instead of its central square, drawn anew in every
            epoch, smoothed and stretched to ``image_size``; ``None`` for the central square.
        channels: 3 for RGB, 1 for gray (our default is RGB).
        class_names: names of all classes in the order of the labels; ``None`` sorts the folders by number if all are
            numbered alike, else as text.
        num_workers: processes of each rank that decode; 0 decodes in the training process, ``None`` takes the
            processors that a rank has, at most 8 (our default).
        batch_size: images in a training batch, over all ranks; images left over at the end of an epoch are dropped.
        eval_batch_size: images in a validation or test batch, over all ranks.
        seed: seed of order and boxes; ``None`` for that of ``seed_everything``, else 0. A resumed run keeps its seed.

    Raises:
        ValueError: if sizes or ``crop`` do not fit each other, or a number is out of its range.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train",
        val: str | None = "test",
        *,
        labeled: bool = True,
        image_size: int | None = None,
        shorter_side: int | None = None,
        crop: ResizedCrop | None = None,
        channels: Literal[1, 3] = 3,
        class_names: Sequence[str] | None = None,
        num_workers: int | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size=eval_batch_size, seed=seed)
        _check_sizes(image_size, shorter_side, crop)
        if channels not in (1, 3):
            raise ValueError(f"channels: expected 1 or 3, got {channels}")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"num_workers: expected a count of processes >= 0, or None, got {num_workers}")
        self.root, self.train, self.val, self.labeled = Path(root), train, val, labeled
        self.image_size, self.shorter_side, self.channels, self.crop = image_size, shorter_side, channels, crop
        self.class_names, self.num_workers = class_names, num_workers
        self._only_held_out = False

    @cached_property
    def train_images(self) -> ImageFiles:
        """The training images."""
        folder = self.root / self.train
        found = list_class_files(folder, self.class_names) if self.labeled else _list_files(folder)
        images = self._image_files("training", found)
        warn_of_empty_classes(images.empty_classes, len(found.class_names))
        return images

    @cached_property
    def val_images(self) -> ImageFiles:
        """The held-out images, for validation, test and prediction."""
        if self.val is None:
            raise ValueError("val: expected the name of a folder of held-out images, got None: name one to measure")
        return self._image_files("held-out", list_class_files(self.root / self.val, self.class_names))

    def _image_files(self, part: str, found: ClassFiles) -> ImageFiles:
        sizes = (self.image_size, self.shorter_side, self.channels)
        images = ImageFiles(FileNames(found.files), found.labels, found.class_names or None, *sizes)
        empty = f", none of {listed(images.empty_classes)}" if images.empty_classes else ""
        rank_zero_info(f"{part} images of {type(self).__name__}: {images.describe()}{empty}")
        return images

    @property
    def num_classes(self) -> int | None:
        """Number of classes K; ``None`` if it is unknown."""
        known = self.class_names
        if self.labeled and not self._only_held_out:
            known = self.train_images.classes
        elif self.val is not None:
            known = self.val_images.classes
        return None if known is None else len(known)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` in pixels."""
        return (self.val_images if self._only_held_out else self.train_images).image_shape

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return len(self.train_images)

    def describe_train(self) -> str:
        """Return a line that identifies the training images by the names of their files, and how they are read."""
        images, root = self.train_images, str(self.root)
        names = content_hash(*(f"{file.removeprefix(root)}\n" for file in images.files), images.labels)
        read = f"image_size {self.image_size}, shorter_side {self.shorter_side}, channels {self.channels}"
        return f"{len(images)} image files, sha256 of names {names[:16]}, {read}, crop {self.crop}"

    def setup(self, stage: str) -> None:
        """Find the files that the stage needs.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ValueError: if there are no held-out images to measure or predict, or fewer to predict than processes.
        """
        self._only_held_out = stage != "fit"
        if stage != "fit":
            found = self.val_images
            if stage == "predict":
                check_enough_to_predict(len(found))

    def check_parts(self) -> None:
        """Check that training and held-out images have the same classes and shape.

        Raises:
            ValueError: if they differ.
        """
        if self.val is None:
            return
        if self.labeled:
            check_same("class_names", self.train_images.classes, self.val_images.classes)
        check_same("image_shape", self.train_images.image_shape, self.val_images.image_shape)

    def train_batches(self, share: Share) -> FileLoader:
        """Return the loader of an epoch of shuffled batches ``(uint8 images, labels)``.

        Args:
            share: rank of this process and number of processes.
        """
        order = ShuffledRows(self.train_size, self.batch_size, seed=self.seed, **share)
        batches = FileBatches(self.train_images, order, crop=self.crop, seed=self.seed, with_rows=self.with_rows)
        return FileLoader(batches, self._position, self._workers())

    def val_dataloader(self) -> FileLoader | list[FileLoader]:
        """Return all held-out images once, in order; nothing if there are none."""
        if self.val is None:
            return []
        order = RowsInOrder(len(self.val_images), self.eval_batch_size, **share_of_this_process())
        return FileLoader(FileBatches(self.val_images, order), lambda: (0, 0), self._workers())

    def test_dataloader(self) -> FileLoader | list[FileLoader]:
        """Return the same as :meth:`val_dataloader`."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Tensor]:
        """Return the held-out images once, in order and without labels; Lightning divides them among the ranks."""
        size = max(1, self.eval_batch_size // distributed.world_size())
        generator = torch.Generator()  # else it would take a number from the global stream
        return DataLoader(self.val_images, batch_size=size, num_workers=self._workers(), generator=generator)

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        # macOS and Windows do not know which processors a process may use.
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ranks = 1 if self.trainer is None else max(1, self.trainer.num_devices)
        return max(1, min(MOST_WORKERS, processors // ranks))


def _list_files(folder: Path) -> ClassFiles:
    files = [str(file) for file in image_files(folder)] if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"expected image files in {folder} or below it, found none")
    return ClassFiles(files, torch.full((len(files),), -1), ())


def _check_sizes(image_size: int | None, shorter_side: int | None, crop: ResizedCrop | None) -> None:
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size: expected a number of pixels, at least 1, got {image_size}")
    if shorter_side is not None and (image_size is None or shorter_side < image_size):
        raise ValueError(
            f"shorter_side: expected at least the image_size that is cropped from it, got {shorter_side} with "
            f"image_size {image_size}"
        )
    if crop is not None and (image_size is None or crop.size is not None):
        raise ValueError(
            f"crop: its boxes are stretched to image_size, got image_size {image_size} and a crop of size {crop.size}: "
            "set image_size alone"
        )
