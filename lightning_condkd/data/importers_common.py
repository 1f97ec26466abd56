"""What all importers of condensed sets share: their options, and how labels and facts are recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from lightning_condkd.data.condensed import CondensedInfo, CondensedSet
from lightning_condkd.data.normalisations import Normalisation
from lightning_condkd.data.soft_labels import LabelKind, SoftLabelKind, checked_kind, soft_label_kind
from lightning_condkd.files import sha256


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


# Whitened CIFAR-10 (ZCA, eps 0.1) has a standard deviation of 0.26, normalised CIFAR-10 of 1.2 (measured by us), pixels
# 0.5 at most. Learned images may spread several times as far as real ones; pixels of 0 to 255 have about 50 and more.
NORMALISED_STD = (0.6, 10.0)
PIXEL_CONSTANTS = "for each channel 0 and 1 for pixels of 0 to 1, 0 and 0.003921569 for pixels of 0 to 255"

# True of every set, whatever its format.
FACTS = frozenset({"dataset", "class_names", "train_lr"})


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


def record(condensed: CondensedSet, given: Mapping[str, Any]) -> CondensedSet:
    """Return a set with what the user knows about it: dataset, class names, step size.

    Args:
        condensed: the set.
        given: options; those beside :data:`FACTS` are not looked at.

    Raises:
        ValueError: too few or too many names, or a step size that no optimizer takes.
    """
    facts = {name: given[name] for name in ("dataset", "train_lr") if name in given}
    if "train_lr" in facts and not (math.isfinite(facts["train_lr"]) and facts["train_lr"] > 0):
        raise ValueError(f"train_lr: expected a positive step size, got {facts['train_lr']}: it is in the source's log")
    provenance = dict(condensed.info.provenance)
    if "train_lr" in facts:
        provenance.pop("train_lr_sha256", None)
        provenance["train_lr"] = "given on import"
    info = replace(
        condensed.info,
        settings={**condensed.info.settings, **facts},
        provenance=provenance,
        class_names=given.get("class_names", condensed.info.class_names),
    )
    return CondensedSet(condensed.images, condensed.labels, condensed.soft_labels, info)


def provenance_of(form: str, *paths: Path) -> dict[str, str]:
    """Return the record of where a set comes from.

    Args:
        form: its format.
        *paths: its files.
    """
    hashes = ", ".join(sha256(path) for path in paths)
    return {"format": form, "file": ", ".join(path.name for path in paths), "sha256": hashes}


def check_images(images: Tensor, path: Path) -> None:
    """Check that a tensor holds images as sources write them.

    Args:
        images: the tensor.
        path: its file.

    Raises:
        ValueError: it is of another shape or type, or empty.
    """
    if images.dim() != 4 or not images.numel():
        raise ValueError(
            f"expected images (N, C, H, W) in {path}, got {tuple(images.shape)}: give the images file of a finished run"
        )
    if not images.is_floating_point():
        raise ValueError(f"expected floating point images in {path}, got {images.dtype}: no known source writes these")


def misfit(images: Tensor, flat: bool = False) -> str | None:
    """Return why images do not look normalised, ``None`` where they do.

    Args:
        images: ``(N, C, H, W)`` floating point.
        flat: whether a small spread is known to be right.

    Example:
        >>> images = torch.arange(4.0).view(1, 1, 2, 2)
        >>> misfit(images), misfit(images / 4)
        (None, 'looks whitened or already in pixels (std 0.32, expected about 1)')
    """
    spread, (low, high) = float(images.detach().float().std()), NORMALISED_STD
    if spread > high:
        return f"looks like pixels of 0 to 255 (std {spread:.2f}, expected about 1)"
    if spread < low and not flat:
        return f"looks whitened or already in pixels (std {spread:.2f}, expected about 1)"
    return None


def build(
    images: Tensor,
    labels: Tensor,
    known: Normalisation,
    label_kind: SoftLabelKind | None,
    *,
    method: str,
    settings: Mapping[str, Any],
    provenance: Mapping[str, str],
) -> CondensedSet:
    """Return a set from the tensors of a source.

    Args:
        images: ``(N, C, H, W)`` as the source has them.
        labels: classes ``(N,)`` of any type, or probabilities or logits ``(N, K)``.
        known: the normalisation to undo.
        label_kind: what soft labels are; ``None`` tells it from their values.
        method: the condensation method.
        settings: what else is known; ``None`` values are left out.
        provenance: where the set comes from.

    Raises:
        ValueError: the labels are of another kind, or do not fit the images.
    """
    hard, soft, kind = _labels(labels.detach(), label_kind)
    info = CondensedInfo(
        known.num_classes or (int(hard.max()) + 1 if soft is None else soft.shape[1]),
        label_kind=kind,
        method=method,
        settings={name: value for name, value in settings.items() if value is not None},
        source_mean=known.mean or None,
        source_std=known.std or None,
        provenance=provenance,
    )
    return CondensedSet(known.undo(images.detach().float()), hard, soft, info)


def _labels(labels: Tensor, named: SoftLabelKind | None) -> tuple[Tensor, Tensor | None, LabelKind]:
    if labels.dim() == 2 and labels.is_floating_point():
        return labels.argmax(1), labels, checked_kind(labels, named) if named else soft_label_kind(labels)
    hard = labels.long()
    if labels.dim() != 1 or not torch.equal(hard.to(labels.dtype), labels):
        raise ValueError(
            f"expected labels as whole numbers (N,), or probabilities or logits (N, K), got {labels.dtype} "
            f"{tuple(labels.shape)}: give the labels file of these images"
        )
    if named:
        raise ValueError(f"label_kind={named}, but the labels are classes (N,), no soft labels: drop it")
    return hard, None, "hard"


def what_is(content: object) -> str:
    """Return what a file holds, for errors.

    Args:
        content: the content of the file.
    """
    if isinstance(content, Tensor):
        return f"a tensor of shape {tuple(content.shape)}; give the images file, not the labels"
    return f"a {type(content).__name__}"
