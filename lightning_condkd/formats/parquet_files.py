"""Parquet files in the layout of Hugging Face datasets: parts, shards, columns, and their rows in batches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning_condkd.messages import listed

FEATURES_KEY = b"huggingface"  # key of the schema's metadata
SOFT_LABELS = "soft_label"
BATCH_ROWS = 64
INSTALL = "pip install 'lightning-condkd[parquet]'"
# "train-00000-of-00002.parquet", in older files with a hash behind it
_SHARD = re.compile(r"(?P<part>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?\.parquet")


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
        with opened(file) as parquet:
            for batch in _batches(parquet, columns, file):
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
        if isinstance(value, Mapping) and value.get("path"):
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


def parquet_library() -> Any:  # noqa: ANN401 - it has no types
    """Return pyarrow's module for parquet files.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ModuleNotFoundError(f"parquet files need pyarrow, which is not installed: {INSTALL}") from error
    return pyarrow.parquet


def parquet_files(folder: Path) -> list[Path]:
    """Return the parquet files at any depth below a folder, sorted, without hidden ones.

    Args:
        folder: the folder.
    """
    found = (path for path in folder.rglob("*.parquet") if path.is_file())
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def parquet_parts(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each part of a dataset by its name, such as ``train``, in the order of their shards.

    The name is that of the file without its number (``train-00000-of-00002.parquet``, ``train.parquet``), or that of
    the folder of numbered files (``train/0000.parquet``).

    Args:
        folder: the folder of the dataset; files may be in ``data`` or other folders below.

    Raises:
        ValueError: if a shard is missing, or files of the same part are in several folders.
    """
    parts: dict[str, list[Path]] = {}
    for file in parquet_files(folder):
        shard = _SHARD.fullmatch(file.name)
        name = shard["part"] if shard else file.parent.name if file.stem.isdigit() else file.stem
        parts.setdefault(name, []).append(file)
    for name, files in parts.items():
        _check_shards(name, files)
    return parts


def _check_shards(part: str, files: Sequence[Path]) -> None:
    if len(folders := sorted({str(file.parent) for file in files})) > 1:
        raise ValueError(f"the part {part!r} is in several folders, {listed(folders)}: give one of them")
    shards = [match for file in files if (match := _SHARD.fullmatch(file.name))]
    if not shards:
        return
    numbers, counts = [int(shard["number"]) for shard in shards], {int(shard["count"]) for shard in shards}
    if len(counts) > 1 or len(shards) < len(files) or numbers != list(range(*counts)):
        raise ValueError(
            f"the part {part!r} in {files[0].parent} should have each shard of {max(counts)} once, but has "
            f"{listed([file.name for file in files], 4)}: copy or download the others, or remove those left over"
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
    files = _files_of_part(path, part)
    schemas = [_schema(file) for file in files]
    columns = [
        find_columns(schema, file, image_column, label_column) for schema, file in zip(schemas, files, strict=True)
    ]
    for file, found in zip(files, columns, strict=True):
        if found != columns[0]:
            raise ValueError(
                f"{file.name} and {files[0].name} differ in their columns or class names: they are no parts of one "
                "dataset; give one of the files"
            )
    num_rows = sum(_num_rows(file) for file in files)
    if not num_rows:
        raise ValueError(f"expected rows in {path}, found none: give another file or part")
    return ImageTable(tuple(files), *columns[0], num_rows)


def _files_of_part(path: Path, part: str | None) -> list[Path]:
    if path.is_file():
        if part is not None:
            raise ValueError(f"part={part!r}, but {path} is a file: give its folder, or leave out part")
        shard = _SHARD.fullmatch(path.name)
        beside = [] if shard is None else parquet_parts(path.parent).get(shard["part"], [])
        return beside or [path]
    parts = parquet_parts(path)
    if not parts:
        raise FileNotFoundError(f"expected parquet files in {path}, found none: check the path")
    if part is None and len(parts) > 1:
        raise ValueError(f"{path} has the parts {', '.join(parts)}: choose one with part (--part)")
    if part is not None and part not in parts:
        raise ValueError(f"part: {path} has no {part!r}, but {', '.join(parts)}: choose one of these")
    return parts[part] if part is not None else next(iter(parts.values()))


class Columns(NamedTuple):
    """The columns of a table of images.

    Args:
        image: name of the column of images.
        label: name of the column of classes.
        soft_label: name of the column of soft labels, if there is one.
        class_names: names of the classes; ``None`` if unknown.
    """

    image: str
    label: str
    soft_label: str | None
    class_names: tuple[str, ...] | None


def find_columns(schema: Any, file: Path, image_column: str | None, label_column: str | None) -> Columns:  # noqa: ANN401
    """Return the columns of images and classes.

    Args:
        schema: pyarrow's schema of the file.
        file: the file, for error messages.
        image_column: the user's choice; ``None`` for the only one there is.
        label_column: likewise.

    Raises:
        ValueError: if there is none, or several and no choice.
    """
    features = _features(schema, file)
    kinds = {field.name: features.get(field.name, {}).get("_type") or _kind(str(field.type)) for field in schema}
    image = _chosen("image", "Image", image_column, kinds, file)
    label = _chosen("label", "ClassLabel", label_column, kinds, file)
    names = features.get(label, {}).get("names")
    soft = SOFT_LABELS if kinds.get(SOFT_LABELS) in ("list", "List", "Sequence") else None
    return Columns(image, label, soft, tuple(map(str, names)) if isinstance(names, list) else None)


def _chosen(what: str, kind: str, given: str | None, kinds: Mapping[str, str], file: Path) -> str:
    fallback = {"Image": "binary", "ClassLabel": "integer"}
    usable = {name: own for name, own in kinds.items() if own in (kind, fallback[kind])}
    if given is not None:
        if given in usable:
            return given
        raise ValueError(
            f"{what}_column: {file} has no column of this kind called {given!r}; there are: {listed(list(kinds), 10)}"
        )
    found = [name for name, own in usable.items() if own == kind] or list(usable)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{file} has several columns for the {what}, {', '.join(found)}: choose by --{what}_column")
    expected = "encoded images" if what == "image" else "classes as whole numbers (text: class_encode_column)"
    raise ValueError(f"expected a column of {expected} in {file}, found {listed(list(kinds), 10)}: give another file")


def _kind(stored: str) -> str:
    """Return the kind of a column that the features do not name, by pyarrow's name of its type."""
    if stored.startswith("struct<bytes: ") or stored in ("binary", "large_binary"):
        return "binary"
    if stored.startswith(("int", "uint")):
        return "integer"
    return "list" if "list<" in stored or "_list" in stored else "other"


def _features(schema: Any, file: Path) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    text = (schema.metadata or {}).get(FEATURES_KEY)
    if text is None:
        return {}
    try:
        features = json.loads(text)["info"]["features"]
        return {name: own if isinstance(own, dict) else {} for name, own in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: its record of Hugging Face features is damaged ({error}): copy it again") from error


def opened(file: Path) -> Any:  # noqa: ANN401
    """Return pyarrow's reader of a file, to be closed.

    Args:
        file: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if pyarrow is not installed.
        ValueError: if it is no parquet file, or cut off.
    """
    try:
        return parquet_library().ParquetFile(file)
    except (FileNotFoundError, PermissionError, ModuleNotFoundError):
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors are both kinds
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(f"{file} is no parquet file or is cut off ({reason}): copy or download it again")


def _batches(parquet: Any, columns: list[str], file: Path) -> Iterator[Any]:  # noqa: ANN401
    try:
        yield from parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns)
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error


def _schema(file: Path) -> Any:  # noqa: ANN401
    with opened(file) as parquet:
        return parquet.schema_arrow


def _num_rows(file: Path) -> int:
    with opened(file) as parquet:
        return int(parquet.metadata.num_rows)
