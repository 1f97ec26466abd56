"""Format of the MTT family, a pair of tensor files: MTT, FTD, TESLA, DATM; DataDAM and DC-BENCH for real images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_condkd.files import read_untrusted
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
from lightning_condkd.formats.normalizations import (
    DC_CONSTANTS,
    MTT_CONSTANTS,
    GivenConstants,
    Normalization,
    find_normalization,
    known_classes,
)
from lightning_condkd.formats.options import given_options
from lightning_condkd.formats.soft_labels import SoftLabelKind
from lightning_condkd.formats.tensor_files import checked_images, read_images, read_labels, read_step_size
from lightning_condkd.writing import new_folder, save_by_torch

# Initial images of DataDAM and DC-BENCH, which use the constants of DC
_START_NAME = re.compile(r"(?P<dataset>[^_]+)_IPC\d+(?:_normalize)?_images\.(?:pt|pth)")
# DC-BENCH splits MTT's Tiny-ImageNet set with 50 images per class.
_SHARD_NAME = re.compile(r"(?P<stem>images_best_)(?P<number>\d{1,2})(?P<suffix>\.pt|\.pth)")


def import_mtt(
    images_path: str | Path,
    labels_path: str | Path | None = None,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    whitened: bool | None = None,
    train_lr: float | None = None,
    label_kind: SoftLabelKind | None = None,
) -> Contents:
    """Read a pair of tensor files of the MTT family (MTT, FTD, TESLA, DATM).

    Labels may be classes, probabilities or logits; the kind is determined from type and shape, and recorded. Sets made
    with ZCA exist twice: ``images_*`` is whitened and refused, since a teacher cannot use it; ``images_zca_*`` is the
    same set with the whitening undone, already in the units of [0, 1], and is read unchanged. To read a set in shards
    (``images_best_0.pt`` to ``images_best_4.pt`` of DC-BENCH), give the first shard.

    The family trains on its sets with a learned step size. DATM saves it (``lr_best.pt``), the others only log it.

    Args:
        images_path: usually ``images_best.pt``.
        labels_path: its labels; by default the name with ``labels`` in place of ``images``.
        dataset: the dataset, whose constants are undone.
        mean: channel means that the source used, in place of the dataset's.
        std: channel standard deviations that the source used, in place of the dataset's.
        whitened: whether the images are whitened; ``None`` decides by their standard deviation.
        train_lr: the learned step size; by default that of an ``lr_*`` file in the same folder. Recorded as
            ``info.settings["train_lr"]``.
        label_kind: kind of the soft labels; by default determined from their values.

    Raises:
        FileNotFoundError: if there is no labels file.
        ValueError: if the images are whitened or do not look normalised, a shard is missing, the files are of another
            kind or damaged, or the normalisation or the kind of the labels is unknown.

    References:
        Cazenavette et al.: Dataset Distillation by Matching Training Trajectories, arXiv 2203.11932.
        Guo et al.: Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, arXiv 2310.05773.
    """
    path = Path(images_path)
    constants = GivenConstants(dataset, mean, std)
    condensed = read_mtt(read_untrusted(path), path, labels_path, constants, whitened, label_kind)
    return record(condensed, given_options({"train_lr": train_lr}))


def read_mtt(
    content: object,
    path: Path,
    labels_path: str | Path | None,
    constants: GivenConstants,
    whitened: bool | None,
    label_kind: SoftLabelKind | None,
) -> Contents:
    """Return the set of a pair, with the step size of its ``lr_*`` file if there is one.

    Args:
        content: content of the images file.
        path: the images file.
        labels_path: its labels; ``None`` looks in the same folder.
        constants: its normalisation.
        whitened: whether the images are whitened; ``None`` decides by their standard deviation.
        label_kind: kind of the soft labels; ``None`` determines it from their values.

    Raises:
        FileNotFoundError: if there is no labels file.
        ValueError: see :func:`import_mtt`.
    """
    first = checked_images(content, path)
    files = [path] if labels_path is not None else _shards(path)
    label_files = [Path(labels_path)] if labels_path is not None else [_labels_path(file) for file in files]
    images = torch.cat([first, *map(read_images, files[1:])]) if files[1:] else first
    labels = torch.cat([*map(read_labels, label_files)])
    start = _START_NAME.fullmatch(path.name)
    constants = constants._replace(dataset=constants.dataset or (start["dataset"] if start else None))
    known = _normalization(images, path, constants, whitened, DC_CONSTANTS if start else MTT_CONSTANTS)
    train_lr, lr_record = _step_size(path)
    return build(
        images,
        labels,
        known,
        label_kind,
        method="real images" if start else "MTT family",
        settings={"dataset": constants.dataset, "train_lr": train_lr},
        provenance=_provenance(files, label_files, known) | lr_record,
    )


def _shards(path: Path) -> list[Path]:
    match = _SHARD_NAME.fullmatch(path.name)
    if not match:
        return [path]
    if match["number"] != "0":
        raise ValueError(f"{path.name} is one shard of a set: give the first, {match['stem']}0{match['suffix']}")
    name = f"{match['stem']}{{}}{match['suffix']}"
    files = [path.with_name(name.format(number)) for number in range(_shard_count(path))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{path.name} lacks its shards {', '.join(missing)}: copy or download them too")
    return files


def _shard_count(path: Path) -> int:
    """Return one more than the highest shard number in the folder of a shard."""
    names = (file.name.replace("labels", "images") for file in path.parent.iterdir())
    return 1 + max(int(match["number"]) for name in names if (match := _SHARD_NAME.fullmatch(name)))


def _labels_path(path: Path) -> Path:
    name = path.name.replace("images_zca", "images").replace("images", "labels")
    # FTD saves the un-whitened version of its averaged images with ema_labels_*.
    for candidate in (name, f"ema_{name}"):
        if name != path.name and path.with_name(candidate).is_file():
            return path.with_name(candidate)
    raise FileNotFoundError(f"no labels file {name} beside {path}: pass its path as labels (--labels)")


def _step_size(path: Path) -> tuple[float | None, dict[str, str]]:
    file = path.with_name(path.name.replace("images_zca", "images").replace("images", "lr"))
    return (None, {}) if file == path else read_step_size(file)


def _provenance(files: list[Path], label_files: list[Path], known: Normalization) -> dict[str, str]:
    form = "MTT pair" if known.mean else "MTT pair, whitening undone by its source"
    labels = provenance_of(form, *label_files)
    return provenance_of(form, *files) | {"labels": labels["file"], "labels_sha256": labels["sha256"]}


def _normalization(
    images: Tensor, path: Path, constants: GivenConstants, whitened: bool | None, table: Mapping[str, Normalization]
) -> Normalization:
    if "images_zca" in path.name:
        if constants.mean is not None or whitened:
            raise ValueError(f"{path.name} has the whitening undone and is in pixels: leave out mean, std and whitened")
        return Normalization((), (), known_classes(constants.dataset))
    # With mean and std from the user, images of any standard deviation are accepted.
    judged = spread_fault(images, flat=whitened is False) if constants.mean is None else None
    if why := "is whitened" if whitened else judged:
        raise ValueError(
            f"{path.name} {why}. A teacher cannot use whitened images: import the images_zca_*.pt file that the "
            "source writes beside it. If the images are normalised after all, pass whitened=False (--whitened false); "
            f"otherwise mean and std (--mean, --std), {PIXEL_CONSTANTS}"
        )
    return find_normalization(table, constants, path.name)


def export_mtt(
    condensed: SetLike,
    folder: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> int:
    """Write the pair of the MTT family: ``images_best.pt`` and ``labels_best.pt``.

    The images are normalised, never clipped. Labels are the unchanged soft labels (TESLA reads probabilities, DATM
    logits), else int64 classes. A step size in ``info.settings["train_lr"]`` becomes DATM's ``lr_best.pt``. With soft
    labels the format has no place for classes; a reader uses the most likely one.

    Args:
        condensed: the set.
        folder: target, written completely or not at all; it must not exist, or be empty.
        dataset: the dataset whose constants (MTT's) normalise the images; by default that of
            ``info.settings["dataset"]``.
        mean: channel means to normalise with, in place of the dataset's.
        std: channel standard deviations to normalise with, in place of the dataset's.

    Returns:
        The number of images whose class is lost, because it is not the most likely one of their soft label.

    Raises:
        FileExistsError: if the folder is not empty.
        ValueError: if the normalisation is unknown or does not fit the set.
    """
    labels = condensed.labels if condensed.soft_labels is None else condensed.soft_labels
    contents = {
        "images_best.pt": normalized(condensed, MTT_CONSTANTS, GivenConstants(dataset, mean, std)),
        "labels_best.pt": labels.clone(),
    }
    if (train_lr := condensed.info.settings.get("train_lr")) is not None:
        contents["lr_best.pt"] = torch.tensor(float(train_lr), dtype=torch.float32)
    with new_folder(Path(folder)) as target:
        for name, tensor in contents.items():
            save_by_torch(target / name, tensor)
    return 0 if condensed.soft_labels is None else int((condensed.soft_labels.argmax(1) != condensed.labels).sum())
