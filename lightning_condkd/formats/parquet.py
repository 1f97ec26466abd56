"""Format of Hugging Face datasets: a parquet file of encoded images and classes, here for a condensed set."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import functional as transforms

from lightning_condkd.formats.contents import CondensedInfo, Contents, SetLike, provenance_of, record
from lightning_condkd.formats.folders import open_image
from lightning_condkd.formats.image_folder import clipped_share, labels_by_name, picture
from lightning_condkd.formats.normalizations import known_classes
from lightning_condkd.formats.options import given_options
from lightning_condkd.formats.parquet_columns import FEATURES_KEY, SOFT_LABELS
from lightning_condkd.formats.parquet_files import parquet_library
from lightning_condkd.formats.parquet_table import ImageTable, open_table
from lightning_condkd.formats.soft_labels import SoftLabelKind, checked_kind, soft_label_kind
from lightning_condkd.writing import replacing


def import_parquet(
    path: str | Path,
    *,
    dataset: str | None = None,
    class_names: Sequence[str] | None = None,
    part: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    label_kind: SoftLabelKind | None = None,
) -> Contents:
    """Read a condensed set from parquet files in the layout of Hugging Face datasets, as uint8.

    Nothing is downloaded. Images are decoded from the file itself; a path that it holds in their place is never opened.

    Args:
        path: the file, any shard of it, or a folder of files, such as a downloaded dataset.
        dataset: the dataset; the number of its classes is checked.
        class_names: names of the dataset's classes in the order of its labels; classes that the file names are put into
            this order.
        part: the part of a folder, such as ``train``; not needed if there is only one.
        image_column: name of the column of images; not needed if there is only one.
        label_column: name of the column of classes; not needed if there is only one.
        label_kind: kind of the soft labels in a column ``soft_label``; by default determined from their values.

    Raises:
        FileNotFoundError: if there is no parquet file.
        ModuleNotFoundError: if pyarrow is not installed.
        ValueError: if a file is damaged, images are broken or have several sizes, a row lacks its image or class, or
            part or columns are ambiguous.

    References:
        https://huggingface.co/docs/datasets/image_dataset (Parquet files, features Image and ClassLabel).
    """
    table = open_table(Path(path), part, image_column, label_column)
    return record(read_table(table, class_names, dataset, label_kind), given_options({"dataset": dataset}))


def read_table(
    table: ImageTable, class_names: Sequence[str] | None, dataset: str | None, label_kind: SoftLabelKind | None
) -> Contents:
    """Return the set of a table.

    Args:
        table: the table.
        class_names: names of all classes in the order of the labels, in place of the table's.
        dataset: the dataset.
        label_kind: kind of the soft labels; ``None`` determines it from their values.

    Raises:
        ValueError: see :func:`import_parquet`.
    """
    images, labels, soft = _read_rows(table)
    if soft is None and label_kind is not None:
        raise ValueError(f"label_kind={label_kind}, but the file has no column {SOFT_LABELS!r}: leave it out")
    order, names = ordered_classes(table, class_names)
    if order is not None:
        positions, labels = torch.tensor(order), torch.tensor(order)[labels]
        if soft is not None and soft.shape[1] != len(class_names or ()):
            raise ValueError(
                f"class_names: expected {soft.shape[1]} names, one for each value of {SOFT_LABELS!r}, got "
                f"{len(class_names or ())}: name these classes alone"
            )
        soft = None if soft is None else torch.empty_like(soft).index_copy_(1, positions, soft)
    known = known_classes(dataset)
    count = len(names) if names is not None else known or int(labels.max()) + 1
    if known not in (None, count):
        raise ValueError(f"{dataset} has {known} classes, {table.files[0]} {count}: leave out dataset, or correct it")
    info = CondensedInfo(count, names, provenance=provenance_of("Hugging Face parquet", *table.files))
    if soft is not None:
        info = replace(info, label_kind=checked_kind(soft, label_kind) if label_kind else soft_label_kind(soft))
    return Contents(images, labels, soft, info)


def _read_rows(table: ImageTable) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return images ``(N, C, H, W)`` uint8, classes ``(N,)`` and soft labels ``(N, K)`` if there are any."""
    images: list[Tensor] = []
    labels, soft_labels = [], []
    for row in table.rows():
        pixels = transforms.pil_to_tensor(open_image(io.BytesIO(row.image), None, row.place))
        if images and pixels.shape[1:] != images[0].shape[1:]:
            sizes = " and ".join("x".join(map(str, one.shape[1:])) for one in (images[0], pixels))
            raise ValueError(f"expected images of one size, got {sizes} ({row.place}): resize them to one size")
        images.append(pixels)
        labels.append(row.label)
        soft_labels.append(row.soft_label)
    channels = max(len(image) for image in images)  # gray among colour becomes colour
    stacked = torch.stack([image.expand(channels, -1, -1) for image in images])
    return stacked, torch.tensor(labels), None if table.soft_label is None else _rectangular(soft_labels, table)


def _rectangular(rows: Sequence[Sequence[float] | None], table: ImageTable) -> Tensor:
    lengths = {len(row or ()) for row in rows}
    if len(lengths) > 1 or (table.class_names and lengths != {len(table.class_names)}):
        raise ValueError(
            f"{table.files[0]}: expected {SOFT_LABELS!r} with one value for each class in every row, got "
            f"{', '.join(map(str, sorted(lengths)))} values: write the file again"
        )
    return torch.tensor(rows, dtype=torch.float32)


def ordered_classes(
    table: ImageTable, class_names: Sequence[str] | None
) -> tuple[list[int] | None, tuple[str, ...] | None]:
    """Return the label of each class of a table in the user's order, ``None`` for the table's own, and the names.

    Args:
        table: the table.
        class_names: names of all classes in the order of the labels; ``None`` for the table's.

    Raises:
        ValueError: if the table has a class that is not among the names.
    """
    if class_names is None or table.class_names is None:
        return None, table.class_names if class_names is None else tuple(class_names)
    return labels_by_name(table.class_names, class_names), tuple(class_names)


def export_parquet(condensed: SetLike, path: str | Path) -> float:
    """Write a parquet file which the library ``datasets`` reads with features ``Image`` and ``ClassLabel``.

    Columns are ``image`` (PNG), ``label`` and, if the set has soft labels, ``soft_label``. Pixels are clamped to [0, 1]
    and rounded to 8 bits; uint8 sets stay exact. Classes without names are named by their numbers.

    Args:
        condensed: the set, with 1 or 3 channels.
        path: target, ending in ``.parquet``; replaced atomically. In a folder for the hub the name is usually
            ``data/train-00000-of-00001.parquet``.

    Returns:
        The share of pixel values that were outside [0, 1] and were clamped.

    Raises:
        ModuleNotFoundError: if pyarrow is not installed.
        ValueError: if the number of channels or the ending is another.
    """
    path, parquet = Path(path), parquet_library()
    check_parquet_name(path)
    if (channels := condensed.images.shape[1]) not in (1, 3):
        raise ValueError(f"PNG has 1 or 3 channels, the set has {channels}: export dc or mtt")
    table = _table(condensed)
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, row_group_size=100)
    return clipped_share(condensed.images)


def check_parquet_name(path: Path) -> None:
    """Check the ending of a file for :func:`export_parquet`.

    Args:
        path: the target.

    Raises:
        ValueError: if the ending is another.
    """
    if path.suffix != ".parquet":
        raise ValueError(f"parquet is one file, ending in .parquet, got {path.name!r}: change the ending")


def _table(condensed: SetLike) -> Any:  # noqa: ANN401 - pyarrow has no types
    import pyarrow

    info, soft = condensed.info, condensed.soft_labels
    names = info.class_names or tuple(map(str, range(info.num_classes)))
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    images = [{"bytes": _encoded(image), "path": None} for image in condensed.images]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    columns = {"image": pyarrow.array(images, kind), "label": pyarrow.array(condensed.labels.numpy(), pyarrow.int64())}
    if soft is not None:
        value = {"dtype": "float32", "_type": "Value"}
        features[SOFT_LABELS] = {"feature": value, "length": info.num_classes, "_type": "Sequence"}
        columns[SOFT_LABELS] = pyarrow.array(soft.tolist(), pyarrow.list_(pyarrow.float32(), info.num_classes))
    metadata = {FEATURES_KEY: json.dumps({"info": {"features": features}})}
    return pyarrow.table(columns).replace_schema_metadata(metadata)


def _encoded(image: Tensor) -> bytes:
    stream = io.BytesIO()
    picture(image).save(stream, "PNG")
    return stream.getvalue()
