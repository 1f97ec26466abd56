"""Options of an import: facts that a file of another project does not contain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from lightning_condkd.formats.soft_labels import SoftLabelKind

# Options that apply to every format.
FACTS = frozenset({"dataset", "class_names", "train_lr"})


class ImportOptions(TypedDict, total=False):
    """Facts that public files do not contain; an option that does not apply to the file's format is refused.

    Args:
        dataset: the dataset, if the file's name does not contain it.
        mean: channel means that the source used, if they are not those of the dataset.
        std: channel standard deviations that the source used.
        run: index of the run to read (DC family); by default the last.
        labels: labels file of a pair (MTT family).
        whitened: whether the images are whitened (MTT family).
        factor: a stored image packs factor x factor images (IDC, DREAM, NCFM); 1 for plain images.
        class_names: names of the dataset's classes in the order of its labels; a folder's classes are put into this
            order by name.
        label_kind: kind of the soft labels, ``probabilities`` or ``logits``; by default determined from their values,
            and required if these are ambiguous.
        part: part of a folder of parquet files, such as ``train``; not needed if there is only one.
        image_column: column of the images (parquet files); not needed if there is only one.
        label_column: column of the classes (parquet files); not needed if there is only one.
        train_lr: learned step size with which the source trains on the set (MTT family), recorded in the settings.
    """

    dataset: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    run: int | None
    labels: str | Path | None
    whitened: bool | None
    factor: int | None
    class_names: Sequence[str] | None
    label_kind: SoftLabelKind | None
    part: str | None
    image_column: str | None
    label_column: str | None
    train_lr: float | None


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not ``None``.

    Args:
        options: :class:`ImportOptions`.

    Raises:
        TypeError: if an option does not exist.
    """
    known = ImportOptions.__annotations__
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"unknown options {', '.join(unknown)}: choose from {', '.join(known)}")
    return {name: value for name, value in options.items() if value is not None}


def refuse_others(given: Mapping[str, Any], allowed: frozenset[str], what: str) -> None:
    """Check that every option applies to the file.

    Args:
        given: the options.
        allowed: options that apply.
        what: the file and its format, for the error message.

    Raises:
        ValueError: if an option does not apply.
    """
    if others := ", ".join(f"{name}={value}" for name, value in given.items() if name not in allowed):
        raise ValueError(
            f"{what}, to which these options do not apply: {others}. They are for other formats: drop them"
        )
