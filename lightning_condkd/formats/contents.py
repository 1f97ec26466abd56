"""Plain contents of a condensed set, and helpers that readers and writers of all formats share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_condkd.files import plain_json
from lightning_condkd.formats.normalizations import GivenConstants, Normalization, find_normalization
from lightning_condkd.formats.soft_labels import LabelKind, SoftLabelKind, checked_kind, soft_label_kind
from lightning_condkd.hashing import file_hash
from lightning_condkd.pixels import parts, to_pixels

# Whitened CIFAR-10 (ZCA, eps 0.1) has a standard deviation of 0.26, normalised CIFAR-10 of 1.2 (our measurement),
# pixels in [0, 1] at most 0.5. Learned images may have several times as much, pixels of 0 to 255 have 50 or more.
NORMALIZED_STD = (0.6, 10.0)
PIXEL_CONSTANTS = "for each channel 0 and 1 for pixels of 0 to 1, 0 and 0.003921569 for pixels of 0 to 255"


@dataclass(frozen=True)
class CondensedInfo:
    """Facts about a condensed set besides its tensors.

    Args:
        num_classes: number of classes K of the dataset.
        class_names: their names in the order of the labels.
        label_kind: kind of the soft labels; ``hard`` without any.
        method: the condensation method.
        settings: its settings, JSON values only.
        seed: its seed.
        source_mean: channel means of the normalisation that an importer undid.
        source_std: channel standard deviations of the normalisation that an importer undid.
        provenance: source of the set: format, file name, SHA-256.
    """

    num_classes: int
    class_names: tuple[str, ...] | None = None
    label_kind: LabelKind = "hard"
    method: str = "unknown"
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    source_mean: tuple[float, ...] | None = None
    source_std: tuple[float, ...] | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("class_names", "source_mean", "source_std"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        for name in ("settings", "provenance"):
            object.__setattr__(self, name, plain_json(name, getattr(self, name)))
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"expected {self.num_classes} class_names, got {len(self.class_names)}: name every class")


class Contents(NamedTuple):
    """Unchecked content of a file; ``CondensedSet(*contents)`` checks it.

    Args:
        images: ``(N, C, H, W)``, float32 pixels in the units of [0, 1], or uint8.
        labels: classes, ``(N,)`` int64.
        soft_labels: probabilities or logits, ``(N, K)`` floating point.
        info: further facts.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor | None
    info: CondensedInfo


class SetLike(Protocol):
    """Attributes of a condensed set that a writer needs; :class:`Contents` has them too."""

    @property
    def images(self) -> Tensor:
        """``(N, C, H, W)``, float32 pixels in the units of [0, 1], or uint8."""

    @property
    def labels(self) -> Tensor:
        """Classes, ``(N,)`` int64."""

    @property
    def soft_labels(self) -> Tensor | None:
        """Probabilities or logits, ``(N, K)``."""

    @property
    def info(self) -> CondensedInfo:
        """Further facts."""


def record(condensed: SetLike, given: Mapping[str, Any]) -> Contents:
    """Return a set with facts given by the user: dataset, class names, step size.

    Args:
        condensed: the set.
        given: options; only those in :data:`FACTS` are used.

    Raises:
        ValueError: if there are too few or too many names, or the step size is not a positive number.
    """
    facts = {name: given[name] for name in ("dataset", "train_lr") if name in given}
    if "train_lr" in facts and not (math.isfinite(facts["train_lr"]) and facts["train_lr"] > 0):
        raise ValueError(f"train_lr: expected a positive step size, got {facts['train_lr']}: see the source's log")
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
    return Contents(condensed.images, condensed.labels, condensed.soft_labels, info)


def provenance_of(form: str, *paths: Path) -> dict[str, str]:
    """Return the provenance record of a set.

    Args:
        form: its format.
        *paths: its files.
    """
    hashes = ", ".join(file_hash(path) for path in paths)
    return {"format": form, "file": ", ".join(path.name for path in paths), "sha256": hashes}


def check_images(images: Tensor, path: Path) -> None:
    """Check that a tensor has the shape and type of images.

    Args:
        images: the tensor.
        path: its file.

    Raises:
        ValueError: if it has another shape or type, or is empty.
    """
    if images.dim() != 4 or not images.numel():
        raise ValueError(
            f"expected images (N, C, H, W) in {path}, got {tuple(images.shape)}: give the images file of a finished run"
        )
    if not images.is_floating_point():
        raise ValueError(f"expected floating point images in {path}, got {images.dtype}: no known source writes these")


def spread_fault(images: Tensor, flat: bool = False) -> str | None:
    """Return a message if images do not look normalised, ``None`` if they do.

    Args:
        images: ``(N, C, H, W)`` floating point.
        flat: whether a small standard deviation is known to be right.

    Example:
        >>> images = torch.arange(4.0).view(1, 1, 2, 2)
        >>> spread_fault(images), spread_fault(images / 4)
        (None, 'looks whitened or already in pixels (std 0.32, expected about 1)')
    """
    spread, (low, high) = float(images.detach().float().std()), NORMALIZED_STD
    if spread > high:
        return f"looks like pixels of 0 to 255 (std {spread:.2f}, expected about 1)"
    if spread < low and not flat:
        return f"looks whitened or already in pixels (std {spread:.2f}, expected about 1)"
    return None


def build(
    images: Tensor,
    labels: Tensor,
    known: Normalization,
    label_kind: SoftLabelKind | None,
    *,
    method: str,
    settings: Mapping[str, Any],
    provenance: Mapping[str, str],
) -> Contents:
    """Return a set from the tensors of a source.

    Args:
        images: ``(N, C, H, W)`` in the units of the source.
        labels: classes ``(N,)`` of any type, or probabilities or logits ``(N, K)``.
        known: the normalisation to undo.
        label_kind: kind of the soft labels; ``None`` determines it from their values.
        method: the condensation method.
        settings: further facts; ``None`` values are left out.
        provenance: source of the set.

    Raises:
        ValueError: if the labels are of another kind, or do not fit the images.
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
    return Contents(known.undo(images.detach().float()), hard, soft, info)


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
        raise ValueError(f"label_kind={named}, but the labels are classes (N,), no soft labels: leave it out")
    return hard, None, "hard"


def what_is(content: object) -> str:
    """Return a description of a file's content, for errors.

    Args:
        content: the content of the file.
    """
    if isinstance(content, Tensor):
        return f"a tensor of shape {tuple(content.shape)}; give the images file, not the labels"
    return f"a {type(content).__name__}"


def normalized(condensed: SetLike, table: Mapping[str, Normalization], constants: GivenConstants) -> Tensor:
    """Return the images of a set, normalized for a format that stores normalized images.

    Args:
        condensed: the set.
        table: the constants of the format by dataset.
        constants: the user's choice of constants.

    Raises:
        ValueError: if the constants are unknown, or belong to a dataset with another number of classes.
    """
    constants = constants._replace(dataset=constants.dataset or condensed.info.settings.get("dataset"))
    known = find_normalization(table, constants, "the export")
    if constants.mean is None and known.num_classes != condensed.info.num_classes:
        raise ValueError(
            f"{constants.dataset} has {known.num_classes} classes, the set {condensed.info.num_classes}: name its own "
            "dataset, or pass mean and std (--mean, --std)"
        )
    images = torch.empty(condensed.images.shape, dtype=torch.float32)
    for rows in parts(images):
        images[rows] = known.apply(to_pixels(condensed.images[rows]).float())
    return images
