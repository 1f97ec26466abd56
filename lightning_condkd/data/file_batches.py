"""Batches of image files that worker processes decode, exact after a resume."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

from torch.utils.data import IterableDataset, get_worker_info

from lightning_condkd.augment import ResizedCrop
from lightning_condkd.data.image_files import ImageFiles, RandomBoxes
from lightning_condkd.data.loaders import Batch, BatchWithRows, Position, ResumableLoader
from lightning_condkd.data.row_orders import RowOrder


class FileBatches(IterableDataset[Any]):
    """The batches of an epoch, decoded from files, from a given position on.

    Each worker process decodes every batch whose turn it is, so that a loader puts out the batches in their order.
    Batches before the position are not decoded.

    Args:
        images: the files.
        order: the rows of the batches.
        crop: random boxes in place of the central squares of the images.
        seed: seed of the boxes.
        with_rows: whether batches carry the rows of their images as a third element, int64.

    Attributes:
        epoch: index of the epoch.
        first: index of the first batch.
    """

    def __init__(
        self,
        images: ImageFiles,
        order: RowOrder,
        *,
        crop: ResizedCrop | None = None,
        seed: int = 0,
        with_rows: bool = False,
    ) -> None:
        self.images, self.order, self.crop, self.seed, self.with_rows = images, order, crop, seed, with_rows
        self.epoch, self.first = 0, 0

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; ``None`` if they are unknown."""
        return self.images.classes

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch | BatchWithRows | str]:
        """Yield batches; the message of an error in place of one whose files cannot be used."""
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        boxes = None if self.crop is None else RandomBoxes(self.crop, self.seed, self.epoch)
        for rows in islice(self.order.batches(self.epoch, self.first), start, None, step):
            try:
                images = self.images.read(rows, boxes)
            except ValueError as error:
                yield str(error)
                return
            labels = self.images.labels[rows]
            yield (images, labels, rows) if self.with_rows else (images, labels)


class FileLoader(ResumableLoader[Batch | BatchWithRows]):
    """A loader of batches of image files.

    Args:
        batches: the batches of an epoch.
        position: function that returns the epoch and the index of its next batch; it is queried when the first batch is
            fetched.
        num_workers: processes that decode the files; 0 for the training process itself.
    """

    def __init__(self, batches: FileBatches, position: Position, num_workers: int) -> None:
        super().__init__(batches, num_workers)
        self.batches, self.position = batches, position

    def __iter__(self) -> Iterator[Batch | BatchWithRows]:  # type: ignore[override]  # started with the first batch
        """Yield the batches from the position on.

        Raises:
            ValueError: if a file is broken, or its image has another size.
        """
        self.batches.epoch, self.batches.first = self.position()
        for batch in cast(Iterator[Batch | BatchWithRows | str], super().__iter__()):
            if isinstance(batch, str):
                raise ValueError(batch)
            yield batch
