"""Tables of images and classes in parquet files, whose rows are read when they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning_condkd.formats.parquet_columns import find_columns
from lightning_condkd.formats.parquet_files import batches, files_of_part, opened


class RawRow(NamedTuple):
    """Values of a row as they are in the file.

    Args:
        image: value of the column of images.
        label: value of the column of classes.
        soft_label: value of the column of soft labels.
        place: file and number of the row, for messages.
    """

    image: Any
    label: Any
    soft_label: Any
    place: str


class ParquetRow(NamedTuple):
    """A row of a table of images.

    Args:
        image: the bytes of an image file, such as those of a PNG or JPEG.
        label: its class.
        soft_label: probabilities or logits of the K classes, if there are any.
        place: file and number of the row, for messages.
    """

    image: bytes
    label: int
    soft_label: list[float] | None
    place: str


@dataclass(frozen=True)
class ImageTable:
    """A table of images and classes in one or several parquet files; rows are read when they are used.

    Args:
        files: the files in their order.
        image: name of the column of images.
        label: name of the column of classes.
        soft_label: name of the column of soft labels, if there is one.
        class_names: names of the classes in the order of the labels; ``None`` if unknown.
        num_rows: number of rows.
    """

    files: tuple[Path, ...]
    image: str
    label: str
    soft_label: str | None
    class_names: tuple[str, ...] | None
    num_rows: int

    def __len__(self) -> int:
        return self.num_rows

    def rows(self) -> Iterator[ParquetRow]:
        """Yield the rows in their order; a few are in memory at once.

        Raises:
            ValueError: if a file is damaged, or a row has no image or no class.
        """
        return (self.checked(raw) for file in self.files for raw in self.raw_rows(file))

    def raw_rows(self, file: Path) -> Iterator[RawRow]:
        """Yield the unchecked rows of one of the files.

        Args:
            file: the file.

        Raises:
            ValueError: if the file is damaged.
        """
        columns = [name for name in (self.image, self.label, self.soft_label) if name is not None]
        number = 0
        for batch in batches(file, columns):
            values = [batch.column(name).to_pylist() for name in columns]
            for image, label, *soft in zip(*values, strict=True):
                yield RawRow(image, label, soft[0] if soft else None, f"{file.name}, row {number}")
                number += 1

    def checked(self, raw: RawRow) -> ParquetRow:
        """Return a row after a check.

        Args:
            raw: the values of the row.

        Raises:
            ValueError: if it has no image or no class.
        """
        if self.soft_label and raw.soft_label is None:
            raise ValueError(f"{raw.place}: the column {self.soft_label!r} holds no labels: remove the row")
        image, label = self._image(raw.image, raw.place), self._label(raw.label, raw.place)
        return ParquetRow(image, label, raw.soft_label, raw.place)

    def _image(self, value: Any, place: str) -> bytes:  # noqa: ANN401 - whatever the file holds
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if isinstance(content, bytes):
            return content
        if isinstance(value, str) or (isinstance(value, Mapping) and value.get("path")):
            raise ValueError(
                f"{place}: the column {self.image!r} holds the path of a file instead of the image. Embed the images: "
                "load it with the library datasets, and write it with to_parquet"
            )
        raise ValueError(f"{place}: the column {self.image!r} holds no image: remove the row")

    def _label(self, value: Any, place: str) -> int:  # noqa: ANN401 - likewise
        known = None if self.class_names is None else len(self.class_names)
        if isinstance(value, int) and value >= 0 and (known is None or value < known):
            return value
        limit = "" if known is None else f" below {known}"
        raise ValueError(
            f"{place}: expected a class, a number from 0{limit}, in the column {self.label!r}, got {value}: remove "
            "rows without a class, or choose another column (--label_column)"
        )


def open_table(
    path: Path, part: str | None = None, image_column: str | None = None, label_column: str | None = None
) -> ImageTable:
    """Return the table of images of a parquet file, or of a part of a folder of them. No image is read.

    A shard stands for all shards of its part. Columns are those of the features that Hugging Face datasets record in
    the file: ``Image`` and ``ClassLabel``; without them those of binary data and of whole numbers.

    Args:
        path: the file or folder.
        part: the part of a folder, such as ``train``; not needed if there is only one.
        image_column: name of the column of images; not needed if there is only one.
        label_column: name of the column of classes; not needed if there is only one.

    Raises:
        FileNotFoundError: if there is no parquet file.
        ModuleNotFoundError: if pyarrow is not installed.
        ValueError: if part or columns are ambiguous or do not exist, a shard is missing, files differ in their columns
            or names of classes, or a file is damaged.
    """
    files = files_of_part(path, part)
    columns, num_rows = [], 0
    for file in files:
        with opened(file) as parquet:
            columns.append(find_columns(parquet.schema_arrow, file, image_column, label_column))
            num_rows += parquet.metadata.num_rows
    for file, found in zip(files, columns, strict=True):
        if found != columns[0]:
            raise ValueError(
                f"{file.name} and {files[0].name} differ in their columns or class names: they are no parts of one "
                "dataset; give one of the files"
            )
    if not num_rows:
        raise ValueError(f"expected rows in {path}, found none: give another file or part")
    return ImageTable(tuple(files), *columns[0], num_rows)
