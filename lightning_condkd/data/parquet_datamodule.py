"""DataModule of real images in parquet files, the layout of Hugging Face datasets."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL.Image import Image

from lightning_condkd.data.image_datamodules import ImageDataModule
from lightning_condkd.data.image_source import ImageSource, decode
from lightning_condkd.formats.folders import open_image, stored_gray
from lightning_condkd.formats.parquet import ordered_classes
from lightning_condkd.formats.parquet_table import ImageTable, open_table


class ParquetDataModule(ImageDataModule):
    """Images in parquet files with columns of images and classes, decoded once; nothing is downloaded.

    ``hf download NAME --repo-type dataset --local-dir ROOT`` fetches such a dataset from the Hugging Face hub.

    Args:
        root: folder of the files, such as ``ROOT/data/train-00000-of-00002.parquet``.
        train: name of the training part.
        val: name of the held-out part.
        image_column: name of the column of images; ``None`` for the only one.
        label_column: name of the column of classes; ``None`` for the only one. CIFAR-100 has two: ``fine_label``.
        image_size: size in pixels to which the shorter side is resized before the central square is cropped; ``None``
            keeps the size, which must be the same for all images.
        channels: 3 for RGB, 1 for gray; ``None`` for gray, with a warning, if all images of a part are stored without
            colour, else RGB.
        class_names: names of all classes in the order of the labels, such as those of a condensed set; ``None`` for the
            order of the files. Classes without names are named by their numbers.
        batch_size: images in a training batch, over all ranks.
        eval_batch_size: images in a validation or test batch, over all ranks.
        seed: seed of the order; ``None`` for that of ``seed_everything``, else 0.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train",
        val: str = "test",
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        class_names: Sequence[str] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self.root, self.parts, self.image_size, self.channels = Path(root), (val, train), image_size, channels
        self.columns, self.class_names = (image_column, label_column), class_names

    def load(self, train: bool) -> ImageSource:
        """Read one part of the data.

        Args:
            train: ``True`` for the training images, ``False`` for the held-out ones.

        Raises:
            FileNotFoundError: if there are no parquet files of this part.
            ModuleNotFoundError: if pyarrow is not installed.
            ValueError: if columns are ambiguous, or an image or class cannot be used.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"root: expected a folder of parquet files, found none at {self.root}: check the path; datasets of the "
                "Hugging Face hub are fetched by `hf download NAME --repo-type dataset --local-dir ROOT`, not here"
            )
        table = open_table(self.root, self.parts[train], *self.columns)
        return from_parquet(table, self.image_size, self.channels, self.class_names)


def from_parquet(
    table: ImageTable,
    image_size: int | None = None,
    channels: int | None = None,
    class_names: Sequence[str] | None = None,
) -> ImageSource:
    """Decode the images of a table.

    Args:
        table: the table.
        image_size: see :class:`ParquetDataModule`.
        channels: see :class:`ParquetDataModule`.
        class_names: see :class:`ParquetDataModule`.

    Raises:
        ValueError: if an image or class cannot be used, or sizes differ and ``image_size`` is not given.
    """
    channels = channels or _stored_channels(table)
    order, names = ordered_classes(table, class_names)
    images, labels = decode(_decoded(table, channels), len(table), image_size)
    targets = labels if order is None else torch.tensor(order)[labels]
    return ImageSource(images, targets, names or tuple(map(str, range(int(labels.max()) + 1))))


def _decoded(table: ImageTable, channels: int) -> Iterator[tuple[Image, int]]:
    for row in table.rows():
        yield open_image(io.BytesIO(row.image), channels, row.place), row.label


def _stored_channels(table: ImageTable) -> int:
    if not all(stored_gray(io.BytesIO(row.image)) for row in table.rows()):
        return 3
    warnings.warn(
        f"{table.files[0]}: all {len(table)} images are gray and keep their one channel; set channels to 1 to say that "
        "this is meant, or to 3 for RGB",
        stacklevel=3,
    )
    return 1
