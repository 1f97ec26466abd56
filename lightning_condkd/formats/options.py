"""The options of an import: what a file of another project does not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from lightning_condkd.formats.soft_labels import SoftLabelKind

# True of every set, whatever its format.
FACTS = frozenset({"dataset", "class_names", "train_lr"})


class ImportOptions(TypedDict, total=False):
    """What a file in circulation does not tell; an option that means nothing to the file at hand is refused.

    Args:
        dataset: the dataset, where the name of the file does not tell.
        mean: channel means that the source used, where the dataset does not tell.
        std: channel standard deviations that the source used.
        run: which run to take (DC family); by default the last.
        labels: labels file of a pair (MTT family).
        whitened: whether the images are whitened (MTT family).
        factor: a stored image packs factor x factor images (IDC, DREAM, NCFM); 1 for plain images.
        class_names: names of the dataset's classes in the order of its labels; a folder's classes are put into this
            order by name.
        label_kind: what soft labels are, ``probabilities`` or ``logits``; by default told from their values, and asked
            for where these do not tell.
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
    train_lr: float | None


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not ``None``.

    Args:
        options: :class:`ImportOptions`.

    Raises:
        TypeError: an option that does not exist.
    """
    known = ImportOptions.__annotations__
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"unknown options {', '.join(unknown)}: there are {', '.join(known)}")
    return {name: value for name, value in options.items() if value is not None}


def refuse_others(given: Mapping[str, Any], allowed: frozenset[str], what: str) -> None:
    """Check that every option means something to the file at hand.

    Args:
        given: the options.
        allowed: those that do.
        what: the file and its format, for the error.

    Raises:
        ValueError: one means nothing.
    """
    if others := ", ".join(f"{name}={value}" for name, value in given.items() if name not in allowed):
        raise ValueError(f"{what}, to which {others} means nothing. Such options belong to other formats: drop them")
