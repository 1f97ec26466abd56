"""Parquet files of images as projects other than ours write them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def png(level: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    """An image of one level, of a width and a height."""
    stream = io.BytesIO()
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.full(shape, level, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write(
    path: Path,
    images: Sequence[Any],
    labels: Sequence[int | None],
    *,
    names: Sequence[str] | None = ("cat", "dog"),
    image: str = "image",
    label: str = "label",
    features: bool = True,
    **others: Sequence[Any],
) -> Path:
    """Write a file of one row group for every two rows, with columns in addition."""
    import pyarrow
    import pyarrow.parquet

    rows = [{"bytes": one, "path": None} if isinstance(one, bytes) else one for one in images]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    columns = {image: pyarrow.array(rows, kind), label: pyarrow.array(labels, pyarrow.int64()), **others}
    known: dict[str, Any] = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    if names is None:
        known[label] = {"dtype": "int64", "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": known}})} if features else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path
