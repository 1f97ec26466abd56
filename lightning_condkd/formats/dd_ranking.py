"""Format of DD-Ranking, a folder: images in the order of their classes, soft labels and the learned step size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lightning_condkd.formats.contents import (
    PIXEL_CONSTANTS,
    Contents,
    SetLike,
    build,
    normalized,
    provenance_of,
    record,
    spread_fault,
)
from lightning_condkd.formats.image_folder import import_folder
from lightning_condkd.formats.normalizations import DD_RANKING_CONSTANTS, GivenConstants, find_normalization
from lightning_condkd.formats.options import given_options
from lightning_condkd.formats.soft_labels import SoftLabelKind, checked_kind, soft_label_kind
from lightning_condkd.formats.tensor_files import read_images, read_labels, read_step_size
from lightning_condkd.hashing import file_hash
from lightning_condkd.messages import listed
from lightning_condkd.writing import new_folder, save_by_torch

IMAGES, LABELS, STEP_SIZE = "images.pt", "labels.pt", "lr.pt"
PICTURES = "images"


def is_dd_ranking(folder: Path) -> bool:
    """Return whether a folder has the files of DD-Ranking: ``images.pt``, or ``images`` beside labels or a step size.

    Args:
        folder: the folder.
    """
    beside = any((folder / name).is_file() for name in (LABELS, STEP_SIZE))
    return has_tensor(folder) or ((folder / PICTURES).is_dir() and beside)


def has_tensor(folder: Path) -> bool:
    """Return whether a folder has ``images.pt``, whose images are normalised.

    Args:
        folder: the folder.
    """
    return (folder / IMAGES).is_file()


def import_dd_ranking(
    folder: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    label_kind: SoftLabelKind | None = None,
    train_lr: float | None = None,
) -> Contents:
    """Read a folder of DD-Ranking: ``images.pt`` or a folder ``images``, and if they exist ``labels.pt`` and ``lr.pt``.

    DD-Ranking reads classes from the order of the images: as many of class 0 as of class 1, and so on. Labels in
    ``labels.pt`` must agree with it: hard ones entirely, soft ones by their most likely class for half of the images at
    least. It applies a softmax to soft labels, thus they are logits; files of probabilities exist too, so the kind is
    determined from the values. Images in ``images.pt`` are normalised, those of a folder are in pixels.

    Args:
        folder: the folder.
        dataset: the dataset, whose constants (DD-Ranking's) are undone; without ``labels.pt`` it tells the number of
            classes.
        mean: channel means that the source used, in place of the dataset's.
        std: channel standard deviations that the source used, in place of the dataset's.
        class_names: names of the dataset's classes in the order of its labels.
        label_kind: kind of the soft labels; by default determined from their values.
        train_lr: the learned step size; by default that of ``lr.pt``.

    Raises:
        FileNotFoundError: if there are no images.
        ValueError: if the images are whitened or do not look normalised, the classes are uneven or in another order, or
            a file is of another kind or damaged, or the normalisation or the number of classes is unknown.

    References:
        Li et al.: DD-Ranking: Rethinking the Evaluation of Dataset Distillation, arXiv 2505.13300, and the code
        NUS-HPC-AI-Lab/DD-Ranking (demo_soft.py, demo_hard.py).
    """
    constants, folder = GivenConstants(dataset, mean, std), Path(folder)
    contents = read_dd_ranking(folder, constants, class_names, label_kind)
    return record(contents, given_options({"class_names": class_names, "train_lr": train_lr}))


def read_dd_ranking(
    folder: Path,
    constants: GivenConstants,
    class_names: Sequence[str] | None,
    label_kind: SoftLabelKind | None,
) -> Contents:
    """Return the set of a folder of DD-Ranking.

    Args:
        folder: the folder.
        constants: its normalisation.
        class_names: names of the classes; ``None`` if unknown.
        label_kind: kind of the soft labels; ``None`` determines it from their values.

    Raises:
        FileNotFoundError: see :func:`import_dd_ranking`.
        ValueError: see :func:`import_dd_ranking`.
    """
    file = folder / LABELS
    stored = read_labels(file) if file.is_file() else None
    train_lr, lr_record = read_step_size(folder / STEP_SIZE)
    found = _from_tensor if has_tensor(folder) else _from_pictures
    images, labels, soft, info = found(folder, stored, constants, class_names, label_kind)
    label_record = {} if stored is None else {"labels": LABELS, "labels_sha256": file_hash(file)}
    provenance = {**info.provenance, "format": "DD-Ranking folder", **label_record, **lr_record}
    settings = {**info.settings, **({} if train_lr is None else {"train_lr": train_lr})}
    return Contents(images, labels, soft, replace(info, settings=settings, provenance=provenance))


def _from_tensor(
    folder: Path,
    stored: Tensor | None,
    constants: GivenConstants,
    class_names: Sequence[str] | None,
    label_kind: SoftLabelKind | None,
) -> Contents:
    path = folder / IMAGES
    images = read_images(path)
    if constants.mean is None and (why := spread_fault(images)):
        raise ValueError(
            f"{path} {why}. A teacher cannot use whitened images, which DD-Ranking reads with use_zca. If these are "
            f"not whitened, pass mean and std (--mean, --std), {PIXEL_CONSTANTS}"
        )
    known = find_normalization(DD_RANKING_CONSTANTS, constants, f"{folder.name}/{IMAGES}")
    count = len(class_names) if class_names is not None else known.num_classes
    if stored is None:
        stored = by_position(len(images), count, path)
    contents = build(
        images,
        stored,
        known._replace(num_classes=count),
        label_kind,
        method="unknown",
        settings={"dataset": constants.dataset},
        provenance=provenance_of("DD-Ranking folder", path),
    )
    return contents._replace(labels=_checked_order(contents, folder))


def by_position(number: int, num_classes: int | None, path: Path) -> Tensor:
    """Return the classes of images that are in the order of their classes, ``(N,)`` int64.

    Args:
        number: number of images N.
        num_classes: number of classes K; ``None`` if unknown.
        path: their file, for error messages.

    Raises:
        ValueError: if the number of classes is unknown, or the images cannot be divided evenly among them.

    Example:
        >>> by_position(4, 2, Path("images.pt"))
        tensor([0, 0, 1, 1])
    """
    if num_classes is None:
        raise ValueError(
            f"{path} has no {LABELS} beside it, and the number of its classes is not known: pass dataset (--dataset), "
            "or class_names (--class_names)"
        )
    if number % num_classes:
        raise ValueError(
            f"{path} has {number} images for {num_classes} classes: DD-Ranking needs the same number in each; check "
            "dataset and class_names"
        )
    return torch.arange(num_classes).repeat_interleave(number // num_classes)


def _checked_order(contents: Contents, folder: Path) -> Tensor:
    """Return the classes by position, after a check of the labels against it."""
    expected = by_position(len(contents.images), contents.info.num_classes, folder / IMAGES)
    if len(contents.labels) != len(expected):
        raise ValueError(f"{folder} has {len(expected)} images, {LABELS} {len(contents.labels)} rows: copy it again")
    other = int((contents.labels != expected).sum())
    if other > (0 if contents.soft_labels is None else len(expected) // 2):
        kind = "classes" if contents.soft_labels is None else "most likely classes"
        raise ValueError(
            f"{folder / LABELS}: the {kind} of {other} of {len(expected)} images are not those of their positions. "
            "DD-Ranking needs all images of class 0, then as many of class 1, and so on: sort images and labels, or "
            f"give {IMAGES} itself, which is read as a pair of the MTT family in any order"
        )
    return expected


def _from_pictures(
    folder: Path,
    stored: Tensor | None,
    constants: GivenConstants,
    class_names: Sequence[str] | None,
    label_kind: SoftLabelKind | None,
) -> Contents:
    if constants.mean is not None or constants.std is not None:
        raise ValueError(f"{folder / PICTURES} is a folder of images in pixels: leave out mean and std (--mean, --std)")
    contents = import_folder(folder / PICTURES, dataset=constants.dataset, class_names=class_names)
    if stored is None or stored.dim() == 1:
        if label_kind is not None:
            raise ValueError(f"label_kind={label_kind}, but {folder} has no soft labels: leave it out")
        if stored is not None and not torch.equal(stored.long(), contents.labels):
            raise ValueError(f"{folder / LABELS} and the class folders of {PICTURES} differ: remove {LABELS}")
        return contents
    if len(stored) != len(contents.images):
        raise ValueError(f"{folder} has {len(contents.images)} images, {LABELS} {len(stored)} rows: copy it again")
    kind = checked_kind(stored, label_kind) if label_kind else soft_label_kind(stored)
    return contents._replace(soft_labels=stored, info=replace(contents.info, label_kind=kind))


def export_dd_ranking(
    condensed: SetLike,
    folder: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write a folder that DD-Ranking reads: ``images.pt``, ``labels.pt``, and ``lr.pt`` if a step size is known.

    The images are normalised, never clipped, and sorted by class, as are the labels. Soft labels are written as logits,
    since DD-Ranking applies a softmax to them: probabilities become their logarithm. A set without soft labels has its
    classes in ``labels.pt``, which DD-Ranking does not need. Its class names are left out.

    Args:
        condensed: the set, with the same number of images in each class.
        folder: target, written completely or not at all; it must not exist, or be empty.
        dataset: the dataset whose constants (DD-Ranking's) normalise the images; by default that of
            ``info.settings["dataset"]``.
        mean: channel means to normalise with, in place of the dataset's.
        std: channel standard deviations to normalise with, in place of the dataset's.

    Raises:
        FileExistsError: if the folder is not empty.
        ValueError: if classes are uneven, or the normalisation is unknown or does not fit the set.
    """
    _refuse_uneven(condensed)
    order = torch.argsort(condensed.labels, stable=True)
    images = normalized(condensed, DD_RANKING_CONSTANTS, GivenConstants(dataset, mean, std))
    contents = {IMAGES: images[order], LABELS: _as_logits(condensed)[order]}
    if (train_lr := condensed.info.settings.get("train_lr")) is not None:
        contents[STEP_SIZE] = torch.tensor(float(train_lr), dtype=torch.float32)
    with new_folder(Path(folder)) as target:
        for name, tensor in contents.items():
            save_by_torch(target / name, tensor)


def _refuse_uneven(condensed: SetLike) -> None:
    info = condensed.info
    counts = torch.bincount(condensed.labels, minlength=info.num_classes)
    usual = int(counts.mode().values)
    if others := (counts != usual).nonzero().flatten().tolist():
        named = [f"{info.class_names[label] if info.class_names else label} ({int(counts[label])})" for label in others]
        raise ValueError(
            f"DD-Ranking needs the same number of images in each class, most have {usual}, but not "
            f"{listed(named, 10)}: export dc, mtt or png, or take a subset of the same number for each class"
        )


def _as_logits(condensed: SetLike) -> Tensor:
    """Return soft labels as logits, or the classes of a set without any."""
    soft = condensed.soft_labels
    if soft is None:
        return condensed.labels
    if condensed.info.label_kind == "logits":
        return soft
    return soft.float().clamp(min=torch.finfo(torch.float32).tiny).log()
