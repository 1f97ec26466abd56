"""Files of ``torch.save`` made by others: tensors and harmless records are read, code never runs."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

_NOT_FLAT = ("ObjectDType", "VoidDType", "StringDType")
_ARCHIVE = b"PK\x03\x04"  # what torch.save has written since its release 1.6
_WEB = (b"<!doctype", b"<html", b"<?xml")


def load_without_code(path: Path) -> Any:  # noqa: ANN401 (whatever the file holds)
    """Return what a file of ``torch.save`` holds, on the CPU, without running any code of its.

    Beside tensors come numbers and arrays of NumPy, paths, dates and ``argparse.Namespace``, of which none runs code.

    Args:
        path: the file.

    Raises:
        Exception: whatever the unpickler happens to fail with on damaged bytes or on what is not let through.
    """
    check_sums(path)
    with torch.serialization.safe_globals(_harmless()):
        return torch.load(path, map_location="cpu", weights_only=True)


def check_sums(path: Path) -> None:
    """Check the CRC-32 that ``torch.save`` writes for each part of a file, which ``torch.load`` does not look at.

    It takes 18 ms for 100 MB, where ``torch.load`` takes 44. Files in the format of before torch 1.6 have none, nor
    have those written after ``torch.serialization.set_crc32_options(False)``, which leaves zeros in its place.

    Args:
        path: the file.

    Raises:
        zipfile.BadZipFile: a part does not give its sum, or the file is cut off.
    """
    with path.open("rb") as stream:
        if stream.read(len(_ARCHIVE)) != _ARCHIVE:
            return
    with zipfile.ZipFile(path) as archive:
        for part in (part for part in archive.infolist() if part.CRC):
            with archive.open(part) as content:
                while content.read(2**20):
                    pass


def damage(path: str | Path, error: Exception) -> str:
    """Return what is wrong with a file that could not be read, as far as its first bytes tell.

    Args:
        path: the file.
        error: what reading it raised.

    Example:
        >>> damage(__file__, ValueError())
        'it is a text file'
    """
    if Path(path).is_dir():
        return "it is a folder"
    if "CRC" in str(error):
        return f"it was damaged after it was written (wrong checksum: {error})"
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(256)
    except OSError:
        return "it is damaged or of another kind"
    archive, safetensors, asked = head.startswith(_ARCHIVE), head[8:10] == b'{"', isinstance(error, SafetensorError)
    kinds = {
        "it is empty, or filled with zeros as after a crash": not head.strip(b"\0"),
        "it is a file of torch.save": archive and asked,
        "it is cut off or damaged": archive or (safetensors and asked),
        "it only stands for a file in Git LFS": head.startswith(b"version https://git-lfs"),
        "it is a web page": head.lstrip().lower().startswith(_WEB),
        "it is a safetensors file": safetensors,
        "it is a text file": head.isascii() and b"\0" not in head and not head.startswith(b"\x80"),
    }
    return next((kind for kind, found in kinds.items() if found), "it is damaged or of another kind")


def refused_names(path: str | Path, error: Exception) -> list[str]:
    """Return the dotted names of all that a file asks for beyond what :func:`load_without_code` lets through.

    Args:
        path: the file.
        error: what reading it raised; names the first one where the file is too old to be searched.
    """
    try:
        with torch.serialization.safe_globals(_harmless()):
            if names := sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)):
                return names
    except Exception:
        pass
    wanted = re.search(r"GLOBAL (\w[\w.]*\w)", str(error))
    return [wanted[1]] if wanted else []


def _harmless() -> list[Any]:
    scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    flat = [kind for name, kind in vars(np.dtypes).items() if name.endswith("DType") and name not in _NOT_FLAT]
    return [
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # NumPy 1 and 2
        *((rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        *dict.fromkeys(flat),
        np.dtype,
        np.ndarray,
        argparse.Namespace,
        datetime.datetime,
        datetime.timedelta,
        *(dict, list, int, float, frozenset, range, slice),
        (_plain_dict, "collections.defaultdict"),
        *((pathlib.PurePosixPath, f"pathlib{part}.PosixPath") for part in ("", "._local")),
        *((pathlib.PureWindowsPath, f"pathlib{part}.WindowsPath") for part in ("", "._local")),
    ]


def _plain_dict(*_: object) -> dict[object, object]:
    # The unpickler fills no other dicts.
    return {}
