"""Exports of condensed sets: into the files that public code bases read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.importers_folder import NAMES_FILE, folder_names
from lightning_condkd.data.normalisations import DC_CONSTANTS, MTT_CONSTANTS, Normalisation, Source, find_normalisation
from lightning_condkd.pixels import parts, share_outside, to_pixels
from lightning_condkd.writing import new_folder, save_by_torch


def export_dc(
    condensed: CondensedSet,
    path: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write the dict of the DC family, one run of ``[images, labels]``, which DC, DSA, DM and DC-BENCH read.

    The images are normalised, never clipped. The format holds classes, so soft labels are left out.

    Args:
        condensed: the set.
        path: target, ending in ``.pt`` or ``.pth``; replaced whole. DC-BENCH asks for the name
            ``res_{METHOD}_{DATASET}_{NET}_{IPC}ipc.pt``.
        dataset: the dataset by whose constants (DC's) the images are normalised; by default the one of
            ``info.settings["dataset"]``.
        mean: channel means to normalise with, in place of the dataset's.
        std: channel standard deviations to normalise with, in place of the dataset's.

    Raises:
        ValueError: another ending, or the normalisation is not known or does not fit the set.
    """
    path = Path(path)
    check_dc_name(path)
    images = _normalised(condensed, DC_CONSTANTS, Source(dataset, mean, std))
    save_by_torch(path, {"data": [[images, condensed.labels.clone()]], "accs_all_exps": {}})


def export_mtt(
    condensed: CondensedSet,
    folder: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> int:
    """Write the pair of the MTT family: ``images_best.pt`` and ``labels_best.pt``.

    The images are normalised, never clipped. Labels are the soft labels as they are (probabilities as TESLA, logits as
    DATM reads them), else int64 classes. A step size in ``info.settings["train_lr"]`` becomes DATM's ``lr_best.pt``.
    Beside soft labels the format has no place for classes: those who read it take the most likely one.

    Args:
        condensed: the set.
        folder: target, made whole or not at all; it must not exist, or be empty.
        dataset: the dataset by whose constants (MTT's) the images are normalised; by default the one of
            ``info.settings["dataset"]``.
        mean: channel means to normalise with, in place of the dataset's.
        std: channel standard deviations to normalise with, in place of the dataset's.

    Returns:
        The number of images whose class is not the most likely one of their soft label, and so gets lost.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: the normalisation is not known or does not fit the set.
    """
    labels = condensed.labels if condensed.soft_labels is None else condensed.soft_labels
    contents = {
        "images_best.pt": _normalised(condensed, MTT_CONSTANTS, Source(dataset, mean, std)),
        "labels_best.pt": labels.clone(),
    }
    if (train_lr := condensed.info.settings.get("train_lr")) is not None:
        contents["lr_best.pt"] = torch.tensor(float(train_lr), dtype=torch.float32)
    with new_folder(Path(folder)) as target:
        for name, tensor in contents.items():
            save_by_torch(target / name, tensor)
    return 0 if condensed.soft_labels is None else int((condensed.soft_labels.argmax(1) != condensed.labels).sum())


def export_png(condensed: CondensedSet, folder: str | Path) -> float:
    """Write a folder of PNG images, one subfolder for each class, which ``ImageFolder`` reads.

    Subfolders are called by number and name (``3_cat``), with leading zeros, so that sorting keeps the order of the
    classes; names are also kept beside them in ``class_names.json`` for our importer, since a folder cannot have every
    name. Pixels are clamped to [0, 1] and rounded to 8 bits; uint8 sets stay exact. Soft labels are left out.

    Args:
        condensed: the set, with 1 or 3 channels.
        folder: target, made whole or not at all; it must not exist, or be empty.

    Returns:
        The share of pixel values that were outside [0, 1] and were clamped.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: another number of channels, or a class without an image, for which a folder has no place.
    """
    if condensed.image_shape[0] not in (1, 3):
        raise ValueError(f"PNG holds 1 or 3 channels, the set has {condensed.image_shape[0]}: export dc or mtt")
    if missing := condensed.missing_classes:
        raise ValueError(
            f"classes {', '.join(map(str, missing))} have no image, and ImageFolder refuses empty folders: export dc "
            "or mtt, or write .safetensors"
        )
    with new_folder(Path(folder)) as target:
        if condensed.info.class_names is not None:
            (target / NAMES_FILE).write_text(json.dumps(condensed.info.class_names, ensure_ascii=False), "utf-8")
        for label, name in enumerate(folder_names(condensed.info.class_names or [""] * condensed.num_classes)):
            (target / name).mkdir()
            for row in condensed.class_indices(label).tolist():
                _picture(condensed.images[row]).save(target / name / f"{row:06d}.png")
    return _clipped_share(condensed.images)


def check_dc_name(path: Path) -> None:
    """Check the ending of a file for :func:`export_dc`.

    Args:
        path: the target.

    Raises:
        ValueError: another ending.
    """
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(f"a DC dict is one file, ending in .pt or .pth, got {path.name!r}: change the ending")


def _normalised(condensed: CondensedSet, table: Mapping[str, Normalisation], source: Source) -> Tensor:
    source = source._replace(dataset=source.dataset or condensed.info.settings.get("dataset"))
    known = find_normalisation(table, source, "the export")
    if source.mean is None and known.num_classes != condensed.num_classes:
        raise ValueError(
            f"{source.dataset} has {known.num_classes} classes, the set {condensed.num_classes}: name its own dataset, "
            "or pass mean and std (--mean, --std)"
        )
    images = torch.empty(condensed.images.shape, dtype=torch.float32)
    for rows in parts(images):
        images[rows] = known.apply(to_pixels(condensed.images[rows]).float())
    return images


def _picture(image: Tensor) -> Image.Image:
    levels = image if image.dtype == torch.uint8 else (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray((levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)).contiguous().numpy())


def _clipped_share(images: Tensor) -> float:
    return share_outside(images, 0.0, 1.0) if images.is_floating_point() else 0.0
