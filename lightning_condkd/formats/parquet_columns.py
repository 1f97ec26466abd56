"""Columns of images and classes in parquet files, by the features that Hugging Face datasets record in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning_condkd.messages import listed

FEATURES_KEY = b"huggingface"  # key of the schema's metadata
SOFT_LABELS = "soft_label"


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
    soft = SOFT_LABELS if kinds.get(SOFT_LABELS) in ("list", "List", "LargeList", "Sequence") else None
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
