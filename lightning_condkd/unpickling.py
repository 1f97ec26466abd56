"""Files of ``torch.save`` made by others: tensors and harmless records are read, code never runs."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

_NOT_FLAT = ("ObjectDType", "VoidDType", "StringDType")


def load_without_code(path: Path) -> Any:  # noqa: ANN401 (whatever the file holds)
    """Return what a file of ``torch.save`` holds, on the CPU, without running any code of its.

    Beside tensors come numbers and arrays of NumPy, paths, dates and ``argparse.Namespace``, of which none runs code.

    Args:
        path: the file.

    Raises:
        Exception: whatever the unpickler happens to fail with on damaged bytes or on what is not let through.
    """
    with torch.serialization.safe_globals(_harmless()):
        return torch.load(path, map_location="cpu", weights_only=True)


def refused_names(path: Path, error: Exception) -> list[str]:
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
