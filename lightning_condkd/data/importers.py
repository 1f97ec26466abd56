"""Importers of condensed sets in circulation: they undo the normalisation of the source and record what they found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_condkd.data.condensed import CondensedInfo, CondensedSet, LabelKind, soft_label_kind
from lightning_condkd.data.files import read_untrusted, sha256

# Whitened CIFAR-10 (ZCA, eps 0.1) has a standard deviation of 0.26, normalised CIFAR-10 of 1.2 (measured by us).
NORMALISED_STD = 0.6


class Normalisation(NamedTuple):
    """How a public code base normalised a dataset.

    Args:
        mean: channel means in the units of [0, 1].
        std: channel standard deviations in the units of [0, 1].
        num_classes: number of classes of the dataset; ``None`` where it is not known.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int | None


class _Source(NamedTuple):
    dataset: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None


_CIFAR10 = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 10)
_TINY = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 200)

# Constants of https://github.com/VICO-UoE/DatasetCondensation
DC_CONSTANTS: Mapping[str, Normalisation] = {
    "mnist": Normalisation((0.1307,), (0.3081,), 10),
    "fashionmnist": Normalisation((0.2861,), (0.3530,), 10),
    "svhn": Normalisation((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 10),
    "cifar10": _CIFAR10,
    "cifar100": Normalisation((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762), 100),
    "tinyimagenet": _TINY,
}

# Constants of https://github.com/GeorgeCazenavette/mtt-distillation: CIFAR-100 goes by those of CIFAR-10.
MTT_CONSTANTS: Mapping[str, Normalisation] = {
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR10._replace(num_classes=100),
    "tinyimagenet": _TINY,
    "tiny": _TINY,
}

_DC_NAME = re.compile(r"res_(?P<method>[^_]+)_(?P<dataset>[^_]+)_(?P<network>.+)_(?P<ipc>\d+)ipc\.(?:pt|pth)")


def import_dc(
    path: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    run: int = -1,
) -> CondensedSet:
    """Read a file of the DC, DSA and DM release: a dict whose ``data`` lists one ``[images, labels]`` for each run.

    Args:
        path: usually ``res_{METHOD}_{DATASET}_{NET}_{IPC}ipc.pt``; method and dataset are read from this name.
        dataset: the dataset, where the name does not tell.
        mean: channel means that the source used, in place of the dataset's.
        std: channel standard deviations that the source used, in place of the dataset's.
        run: which run to take; -1 is the last.

    Raises:
        ValueError: the file is of another kind or asks for code to run, or the normalisation is not known.

    References:
        Zhao, Mopuri, Bilen: Dataset Condensation with Gradient Matching, arXiv 2006.05929.
    """
    return _from_dc(read_untrusted(Path(path)), Path(path), _Source(dataset, mean, std), run)


def import_mtt(
    images_path: str | Path,
    labels_path: str | Path | None = None,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    whitened: bool | None = None,
) -> CondensedSet:
    """Read a pair of tensor files of the MTT family (MTT, FTD, TESLA, DATM).

    Labels may be classes, probabilities or logits; which is told from type and shape, and recorded. Sets that were made
    with ZCA exist twice: ``images_*`` is whitened and refused, since a teacher cannot read it; ``images_zca_*`` is the
    same set with the whitening undone, already in the units of [0, 1], and is taken as it is.

    Args:
        images_path: usually ``images_best.pt``.
        labels_path: its labels; by default the name with ``labels`` in place of ``images``.
        dataset: the dataset, whose constants are undone.
        mean: channel means that the source used, in place of the dataset's.
        std: channel standard deviations that the source used, in place of the dataset's.
        whitened: whether the images are whitened; ``None`` judges by their spread.

    Raises:
        FileNotFoundError: no labels file.
        ValueError: the images are whitened, the files are of another kind, or the normalisation is not known.

    References:
        Cazenavette et al.: Dataset Distillation by Matching Training Trajectories, arXiv 2203.11932.
    """
    path = Path(images_path)
    return _from_mtt(read_untrusted(path), path, labels_path, _Source(dataset, mean, std), whitened)


def import_condensed(
    path: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    labels: str | Path | None = None,
    run: int | None = None,
    whitened: bool | None = None,
) -> CondensedSet:
    """Read a ``.pt`` file in circulation with the importer that its content asks for.

    Args:
        path: the file, or the images file of a pair.
        dataset: the dataset, where the name of the file does not tell.
        mean: channel means that the source used.
        std: channel standard deviations that the source used.
        labels: labels file of a pair (MTT family).
        run: which run to take (DC family); by default the last.
        whitened: whether the images are whitened (MTT family).

    Raises:
        ValueError: no importer knows the content, or an option does not belong to it.
    """
    path = Path(path)
    content, source = read_untrusted(path), _Source(dataset, mean, std)
    if isinstance(content, Tensor) and content.dim() == 4:
        if run is not None:
            raise ValueError(f"{path.name} holds one set, so run={run} means nothing: leave it out")
        return _from_mtt(content, path, labels, source, whitened)
    if labels is not None or whitened is not None:
        raise ValueError(f"labels and whitened belong to a bare tensor of images, which {path.name} is not: drop them")
    return _from_dc(content, path, source, -1 if run is None else run)


def _from_dc(content: object, path: Path, source: _Source, run: int) -> CondensedSet:
    runs = _dc_runs(content, path)
    if not -len(runs) <= run < len(runs):
        raise ValueError(f"run={run}, but {path.name} holds {len(runs)} runs: choose 0 to {len(runs) - 1}, or -1")
    images, labels = runs[run]
    named = match.groupdict() if (match := _DC_NAME.fullmatch(path.name)) else {}
    known = _normalisation(DC_CONSTANTS, source._replace(dataset=source.dataset or named.get("dataset")), path)
    info = CondensedInfo(
        known.num_classes or 0,
        method=named.get("method", "unknown"),
        settings={key: named[key] for key in ("dataset", "network") if key in named},
        provenance=_provenance("DC dict", path) | {"run": f"{run % len(runs) + 1} of {len(runs)}"},
    )
    return _build(images, labels, known, info)


def _dc_runs(content: object, path: Path) -> Sequence[tuple[Tensor, Tensor]]:
    data: list[Any] = (content.get("data") if isinstance(content, dict) else None) or []
    runs = [data] if data and isinstance(data[0], Tensor) else data
    if runs and all(len(pair) == 2 and all(isinstance(item, Tensor) for item in pair) for pair in runs):
        return [(images, labels) for images, labels in runs]
    raise ValueError(
        f"{path} is neither a dict with a list 'data' of [images, labels] (DC, DSA, DM) nor a tensor of images "
        f"(N, C, H, W) (MTT family), but {_what(content)}: save its images in the units of [0, 1] with "
        "CondensedSet(images, labels).save(...)"
    )


def _what(content: object) -> str:
    if isinstance(content, Tensor):
        return f"a tensor of shape {tuple(content.shape)}; give the images file, not the labels"
    if isinstance(content, list) and len(content) == 2:
        return "a bare list of two (IDC, DREAM and NCFM write [images, labels], where an image may pack several)"
    return f"a {type(content).__name__}"


def _from_mtt(
    content: object, path: Path, labels_path: str | Path | None, source: _Source, whitened: bool | None
) -> CondensedSet:
    if not isinstance(content, Tensor) or content.dim() != 4:
        raise ValueError(f"expected a tensor of images (N, C, H, W) in {path}, got {_what(content)}")
    labels_path = _labels_path(path) if labels_path is None else Path(labels_path)
    labels = read_untrusted(labels_path)
    if not isinstance(labels, Tensor):
        raise ValueError(f"expected a tensor of labels in {labels_path}, got {_what(labels)}: give the labels file")
    known = _mtt_normalisation(content, path, source, whitened)
    form = "MTT pair" if known.mean else "MTT pair, whitening undone by its source"
    provenance = _provenance(form, path) | {"labels": labels_path.name, "labels_sha256": sha256(labels_path)}
    return _build(content, labels, known, CondensedInfo(0, method="MTT family", provenance=provenance))


def _labels_path(path: Path) -> Path:
    name = path.name.replace("images_zca", "images").replace("images", "labels")
    if name == path.name or not path.with_name(name).is_file():
        raise FileNotFoundError(f"no labels file {name} beside {path}: name it with labels (--labels)")
    return path.with_name(name)


def _mtt_normalisation(images: Tensor, path: Path, source: _Source, whitened: bool | None) -> Normalisation:
    if "images_zca" in path.name:
        if source.mean is not None or whitened:
            raise ValueError(
                f"{path.name} is the view with the whitening undone, in pixels: drop mean, std and whitened"
            )
        known = MTT_CONSTANTS.get(_key(source.dataset))
        return Normalisation((), (), known.num_classes if known else None)
    spread = float(images.float().std())
    if whitened or (whitened is None and spread < NORMALISED_STD):
        why = (
            "is whitened"
            if whitened
            else f"looks whitened or is in pixels already (std {spread:.2f}, expected about 1)"
        )
        raise ValueError(
            f"{path.name} {why}, and a teacher cannot read whitened images. Import the images_zca_*.pt file that the "
            "source writes beside it; if the images are normalised after all, pass whitened=False (--whitened false)"
        )
    return _normalisation(MTT_CONSTANTS, source, path)


def _key(dataset: str | None) -> str:
    return (dataset or "").lower().replace("-", "").replace("_", "")


def _normalisation(table: Mapping[str, Normalisation], source: _Source, path: Path) -> Normalisation:
    known = table.get(_key(source.dataset))
    if (source.mean is None) != (source.std is None):
        raise ValueError("mean and std belong together: pass both (--mean, --std)")
    if source.mean is not None and source.std is not None:
        return Normalisation(tuple(source.mean), tuple(source.std), known.num_classes if known else None)
    if known is None:
        raise ValueError(
            f"the normalisation of {path.name} is not known for dataset {source.dataset!r}: pass dataset (--dataset), "
            f"one of {', '.join(table)}, or the mean and std of its source (--mean, --std)"
        )
    return known


def _provenance(form: str, path: Path) -> dict[str, str]:
    return {"format": form, "file": path.name, "sha256": sha256(path)}


def _build(images: Tensor, labels: Tensor, known: Normalisation, info: CondensedInfo) -> CondensedSet:
    if known.mean and not len(known.mean) == len(known.std) == images.shape[1]:
        raise ValueError(
            f"images have {images.shape[1]} channels, mean and std {len(known.mean)} and {len(known.std)}: "
            "check dataset, mean and std"
        )
    pixels = images.float()
    if known.mean:
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (known.mean, known.std))
        pixels = pixels * std + mean
    hard, soft, kind = _labels(labels)
    classes = known.num_classes or (int(hard.max()) + 1 if soft is None else soft.shape[1])
    info = replace(
        info, num_classes=classes, label_kind=kind, source_mean=known.mean or None, source_std=known.std or None
    )
    return CondensedSet(pixels, hard, soft, info)


def _labels(labels: Tensor) -> tuple[Tensor, Tensor | None, LabelKind]:
    if labels.dim() == 2 and labels.is_floating_point():
        return labels.argmax(1), labels, soft_label_kind(labels)
    hard = labels.long()
    if labels.dim() != 1 or not torch.equal(hard.to(labels.dtype), labels):
        raise ValueError(
            f"expected labels as whole numbers (N,), or probabilities or logits (N, K), got {labels.dtype} "
            f"{tuple(labels.shape)}: give the labels file of these images"
        )
    return hard, None, "hard"
