"""The machine's side of the pack: check it, decode its sheets once, put its wheels on the path; without torch."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.gpu import sheets

FACTS = "facts.json"
LABELS = "labels.json"
WHEELS = "wheels"
CURE = "run `python benchmarks/gpu/prepare.py` again and carry the whole folder"


def unpack(pack: Path, folder: Path) -> None:
    """Decode a pack into ``train.safetensors`` and ``test.safetensors``: ``images``, ``labels``, ``class_names``.

    Weights and condensed set, files of their own in the pack, are copied beside them.

    Args:
        pack: folder that ``prepare.py`` made.
        folder: where the two files go; it is made.

    Raises:
        FileNotFoundError: if the pack or one of its files is missing.
        ValueError: if a file is not what ``prepare.py`` wrote.
    """
    check(pack)
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads((pack / LABELS).read_text())
    metadata = {"class_names": json.dumps(content["class_names"])}
    for part in sheets.FORMS:
        counts = np.array(content[part], dtype=np.int64)
        images = sheets.read(pack, part, int(counts.sum()))
        labels = np.repeat(np.arange(len(counts)), counts)
        save_file({"images": images, "labels": labels}, folder / f"{part}.safetensors", metadata)
    for path in (path for path in pack.iterdir() if path.suffix in (".safetensors", ".pt")):
        shutil.copy(path, folder)


def check(pack: Path) -> dict[str, Any]:
    """Hold every file of a pack against its checksum; return its facts.

    Args:
        pack: folder that ``prepare.py`` made.

    Raises:
        FileNotFoundError: if the pack or one of its files is missing.
        ValueError: if a file is not what ``prepare.py`` wrote.
    """
    if not (pack / FACTS).is_file():
        raise FileNotFoundError(f"expected a pack with {FACTS} at {pack}, found none: {CURE}")
    facts: dict[str, Any] = json.loads((pack / FACTS).read_text())
    for name, expected in facts["files"].items():
        if not (pack / name).is_file():
            raise FileNotFoundError(f"{name}: missing in {pack}: {CURE}")
        if (found := sha256(pack / name)) != expected["sha256"]:
            raise ValueError(f"{name}: expected sha256 {expected['sha256'][:12]}..., got {found[:12]}...: {CURE}")
    return facts


def code(root: Path) -> str:
    """Return one checksum of all code and recipes, by which a copy without its history knows its commit.

    Args:
        root: of the repository.
    """
    digest = hashlib.sha256()
    for folder, ending in (("lightning_condkd", "py"), ("benchmarks", "py"), ("configs", "yaml")):
        for path in sorted((root / folder).rglob(f"*.{ending}")):
            digest.update(f"{path.relative_to(root)} {sha256(path)}\n".encode())
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def add_wheels(pack: Path, folder: Path) -> None:
    """Unzip the wheels of packages that are not installed, and put the folder first on the path, of children as well.

    Call it before the first import of ``lightning`` or ``lightning_condkd``: these look once for what they can use.

    Args:
        pack: folder that ``prepare.py`` made.
        folder: where the packages go; it is made.

    Raises:
        FileNotFoundError: if the pack has no wheels.
        ValueError: if a wheel is for another Python.
    """
    wheels = sorted((pack / WHEELS).glob("*.whl"))
    if not wheels:
        raise FileNotFoundError(f"expected wheels in {pack / WHEELS}, found none: {CURE}")
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        if not _installed(wheel.name.split("-")[0]):
            _check_python(wheel.name)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    _put_first(str(folder.resolve()))


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _check_python(name: str) -> None:
    """Raise if a wheel is neither pure Python nor made for the running one."""
    here = f"{sys.version_info.major}{sys.version_info.minor}"
    tags = name.removesuffix(".whl").split("-")[-3:-1]
    if tags[0].startswith("cp") and tags[0] != f"cp{here}" and tags[1] != "abi3":
        there = f"run prepare.py with --python={sys.version_info.major}.{sys.version_info.minor}"
        raise ValueError(f"{name}: expected a wheel for py3 or cp{here}, the Python that runs here: {there}")


def _put_first(folder: str) -> None:
    sys.path[:] = [folder, *(entry for entry in sys.path if entry != folder)]
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *(entry for entry in inherited if entry not in ("", folder))])
    importlib.invalidate_caches()
