"""Format of the DC family, a dict: DC, DSA, DM, DataDAM, and DC-BENCH's copies of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Never

from torch import Tensor

from lightning_condkd.files import read_untrusted
from lightning_condkd.formats.contents import (
    PIXEL_CONSTANTS,
    Contents,
    SetLike,
    build,
    check_images,
    normalized,
    provenance_of,
    spread_fault,
    what_is,
)
from lightning_condkd.formats.normalizations import DC_CONSTANTS, GivenConstants, Normalization, find_normalization
from lightning_condkd.formats.soft_labels import SoftLabelKind
from lightning_condkd.writing import save_by_torch

# DataDAM's code ends the name with an underscore.
_CODE_NAME = re.compile(r"res_(?P<method>[^_]+)_(?P<dataset>[^_]+)_(?P<network>.+)_(?P<ipc>\d+)ipc_?\.(?:pt|pth)")
_RELEASED_DATADAM = re.compile(r"syn_data_(?P<dataset>.+)_ipc_(?P<ipc>\d+)\.(?:pt|pth)")


def import_dc(
    path: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    run: int = -1,
    label_kind: SoftLabelKind | None = None,
) -> Contents:
    """Read a file of the DC family: a dict whose ``data`` lists one ``[images, labels]`` for each run.

    DataDAM's released sets have a single pair in ``data``. DataDAM's code lists every evaluation of a run instead, so
    the last entry is the finished set; the provenance records this.

    Args:
        path: usually ``res_{METHOD}_{DATASET}_{NET}_{IPC}ipc.pt`` or ``syn_data_{DATASET}_ipc_{IPC}.pt``; method and
            dataset are read from this name.
        dataset: the dataset; needed if the file's name does not contain it.
        mean: channel means that the source used, in place of the dataset's.
        std: channel standard deviations that the source used, in place of the dataset's.
        run: index of the run to read; -1 is the last.
        label_kind: kind of the soft labels; by default determined from their values.

    Raises:
        ValueError: if the file is of another kind, damaged or needs code to be run, the normalisation is unknown, or
            the images do not look normalised and mean and std are not given.

    References:
        Zhao, Mopuri, Bilen: Dataset Condensation with Gradient Matching, arXiv 2006.05929.
        Sajedi et al.: DataDAM: Efficient Dataset Distillation with Attention Matching, arXiv 2310.00093.
    """
    return read_dc(read_untrusted(Path(path)), Path(path), GivenConstants(dataset, mean, std), run, label_kind)


def read_dc(
    content: object, path: Path, constants: GivenConstants, run: int, label_kind: SoftLabelKind | None
) -> Contents:
    """Return the set of a dict of the DC family.

    Args:
        content: content of the file.
        path: the file.
        constants: its normalisation.
        run: index of the run to read; -1 is the last.
        label_kind: kind of the soft labels; ``None`` determines it from their values.

    Raises:
        ValueError: see :func:`import_dc`.
    """
    runs = _runs(content, path)
    if not -len(runs) <= run < len(runs):
        raise ValueError(f"run={run}, but {path.name} holds {len(runs)} runs: choose 0 to {len(runs) - 1}, or -1")
    named = _name_facts(path.name)
    constants = constants._replace(dataset=constants.dataset or named.get("dataset"))
    known = find_normalization(DC_CONSTANTS, constants, path.name)
    images, labels = runs[run]
    check_images(images, path)
    if constants.mean is None and (why := spread_fault(images)):
        _refuse(why, path, known)
    return build(
        images,
        labels,
        known,
        label_kind,
        method=named.get("method", "unknown"),
        settings={"dataset": constants.dataset, "network": named.get("network")},
        provenance=provenance_of("DC dict", path) | {"run": _which(run % len(runs) + 1, len(runs), named)},
    )


def _name_facts(name: str) -> Mapping[str, str]:
    if match := _RELEASED_DATADAM.fullmatch(name):
        return {"method": "DataDAM", "dataset": match["dataset"]}
    return match.groupdict() if (match := _CODE_NAME.fullmatch(name)) else {}


def _refuse(why: str, path: Path, known: Normalization) -> Never:
    raise ValueError(
        f"{path.name} {why}. A teacher cannot use whitened images, which DataDAM's code writes with --zca. Otherwise "
        f"pass mean and std (--mean, --std): {list(known.mean)} and {list(known.std)} if the images are normalised; "
        f"{PIXEL_CONSTANTS}"
    )


def _which(number: int, count: int, named: Mapping[str, str]) -> str:
    evaluations = named.get("method") == "DataDAM" and "network" in named
    return f"{number} of {count}{' evaluations of one run, of which the last is the finished set' * evaluations}"


def _runs(content: object, path: Path) -> Sequence[tuple[Tensor, Tensor]]:
    data = content.get("data") if isinstance(content, dict) else None
    runs = [data] if _is_pair(data) else data
    if isinstance(runs, list | tuple) and runs and all(map(_is_pair, runs)):
        return [(images, labels) for images, labels in runs]
    raise ValueError(
        f"{path} is neither a dict with a list 'data' of [images, labels] (DC, DSA, DM, DataDAM) nor a tensor of "
        "images (N, C, H, W) (MTT family) nor a list [images, labels] (IDC, DREAM, NCFM), but "
        f"{what_is(content)}: save its images in the units of [0, 1] with CondensedSet(images, labels).save(...)"
    )


def _is_pair(item: object) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(part, Tensor) for part in item)


def export_dc(
    condensed: SetLike,
    path: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write a dict of the DC family with one run of ``[images, labels]``, which DC, DSA, DM and DC-BENCH read.

    The images are normalised, never clipped. The format has no soft labels, so these are left out.

    Args:
        condensed: the set.
        path: target, ending in ``.pt`` or ``.pth``; replaced atomically. DC-BENCH expects the name
            ``res_{METHOD}_{DATASET}_{NET}_{IPC}ipc.pt``.
        dataset: the dataset whose constants (DC's) normalise the images; by default that of
            ``info.settings["dataset"]``.
        mean: channel means to normalise with, in place of the dataset's.
        std: channel standard deviations to normalise with, in place of the dataset's.

    Raises:
        ValueError: if the ending is another, or the normalisation is unknown or does not fit the set.
    """
    path = Path(path)
    check_dc_name(path)
    images = normalized(condensed, DC_CONSTANTS, GivenConstants(dataset, mean, std))
    save_by_torch(path, {"data": [[images, condensed.labels.clone()]], "accs_all_exps": {}})


def check_dc_name(path: Path) -> None:
    """Check the ending of a file for :func:`export_dc`.

    Args:
        path: the target.

    Raises:
        ValueError: if the ending is another.
    """
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(f"a DC dict is one file, ending in .pt or .pth, got {path.name!r}: change the ending")
