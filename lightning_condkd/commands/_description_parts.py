"""Facts about one part of a data set of images, such as ``train``: they are decoded one by one, and none is kept."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from lightning_condkd.data.class_files import list_class_files
from lightning_condkd.data.image_statistics import ImageStatistics
from lightning_condkd.formats.folders import image_files, open_image
from lightning_condkd.formats.parquet_table import ImageTable


@dataclass(frozen=True)
class PartFacts:
    """Facts about a part of a data set.

    Args:
        name: its name; empty if there are no parts.
        statistics: statistics of the images that can be used.
        class_names: names of the classes in the order of the labels; ``None`` without classes.
        damaged: a message for each image that cannot be used.
        rows_of_table: whether the images are rows of parquet files.
        soft_labels: whether they have soft labels too.
    """

    name: str
    statistics: ImageStatistics
    class_names: tuple[str, ...] | None
    damaged: tuple[str, ...]
    rows_of_table: bool = False
    soft_labels: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Number of usable images of each class by its name; empty without classes."""
        return {name: self.statistics.counts[label] for label, name in enumerate(self.class_names or ())}

    @property
    def extremes(self) -> tuple[tuple[str, int], tuple[str, int]] | None:
        """Name and count of the smallest and the largest class; ``None`` without classes."""
        counts = self.counts
        return extremes(counts) if counts else None

    def record(self) -> dict[str, Any]:
        """Return the facts, JSON values only."""
        smallest, largest = self.extremes or (None, None)
        return {
            **self.statistics.record(),
            "classes": None if self.class_names is None else self.counts,
            "smallest_class": None if smallest is None else list(smallest),
            "largest_class": None if largest is None else list(largest),
            "soft_labels": self.soft_labels,
            "damaged": list(self.damaged),
        }


def extremes(counts: Mapping[str, int]) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return name and count of the smallest and the largest class.

    Args:
        counts: number of images of each class by its name, one class at least.

    Example:
        >>> extremes({"cat": 3, "dog": 5, "eel": 4})
        (('cat', 3), ('dog', 5))
    """
    by_count = sorted(counts.items(), key=itemgetter(1))
    return by_count[0], by_count[-1]


def folder_facts(
    name: str, folder: Path, image_size: int | None, class_names: Sequence[str] | None = None
) -> PartFacts:
    """Return the facts about a folder of image files with one subfolder for each class, or without classes.

    Args:
        name: name of the part.
        folder: the folder.
        image_size: see :class:`~lightning_condkd.data.image_statistics.ImageStatistics`.
        class_names: names of all classes in the order of the labels; ``None`` for that of the folders.

    Raises:
        FileNotFoundError: if there is no image.
        ValueError: if a subfolder is not among ``class_names``.
    """
    files = image_files(folder)
    if not files:
        raise FileNotFoundError(f"expected image files in {folder}, found none: check the path")
    labels: list[int] | list[None] = [None] * len(files)
    names = None
    if any(file.parent != folder for file in files):
        found = list_class_files(folder, class_names)
        files, labels, names = [Path(file) for file in found.files], found.labels.tolist(), found.class_names
    statistics, damaged = ImageStatistics(image_size), []
    for file, label in zip(files, labels, strict=True):
        try:
            statistics.add(open_image(file, None, str(file.relative_to(folder))), label)
        except ValueError as error:
            damaged.append(str(error))
    return PartFacts(name, statistics, names, tuple(damaged))


def table_facts(name: str, table: ImageTable, image_size: int | None) -> PartFacts:
    """Return the facts about a table of images in parquet files.

    Args:
        name: name of the part.
        table: the table.
        image_size: see :class:`~lightning_condkd.data.image_statistics.ImageStatistics`.
    """
    statistics, damaged = ImageStatistics(image_size), []
    for file in table.files:
        try:
            for raw in table.raw_rows(file):
                try:
                    row = table.checked(raw)
                    statistics.add(open_image(io.BytesIO(row.image), None, row.place), row.label)
                except ValueError as error:
                    damaged.append(str(error))
        except ValueError as error:  # the rest of the file cannot be read
            damaged.append(str(error))
    highest = max(statistics.counts, default=-1)
    names = table.class_names or tuple(map(str, range(highest + 1)))
    return PartFacts(name, statistics, names, tuple(damaged), True, table.soft_label is not None)
