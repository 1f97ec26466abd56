"""A finished run, read from its folder: figures, curves, condensed set, memory bank, teacher and held-out images."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import lightning as L
import yaml

from lightning_condkd.commands._export_network import build_part
from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.condensed_datamodule import CondensedDataModule
from lightning_condkd.data.image_datamodules import ImageDataModule
from lightning_condkd.figures import Curve, LabeledImages
from lightning_condkd.models import Observer
from lightning_condkd.training.checkpoint_files import newest_first
from lightning_condkd.training.checkpoints import WholeCheckpointIO

CURVES = ("rounds.csv", "epochs.csv", "metrics.csv")  # the last one may be that of a CSVLogger
UNITS = ("round", "epoch")
UNBUILT = "its config.yaml cannot be built"


class FinishedRun:
    """What the folder of a run holds; a part that it lacks raises an error of one line when it is asked for.

    Args:
        folder: the folder, with ``config.yaml``, ``metrics.csv`` or ``summary.json``.
        name: name of the run in pictures.

    Raises:
        FileNotFoundError: if the folder has none of these files.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        if not any((folder / file).is_file() for file in ("config.yaml", "summary.json", *CURVES)):
            raise FileNotFoundError(
                f"expected the folder of a run, with config.yaml, metrics.csv or summary.json, got {folder}"
                f"{_versions_below(folder)}"
            )

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``; empty if the run did not end."""
        path = self.folder / "summary.json"
        return _read(path, json.loads) if path.is_file() else {}

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Metrics over the rounds, by their names."""
        rows = next((rows for name in CURVES if (rows := _rows(self.folder / name))), [])
        names = dict.fromkeys(name for row in rows for name in row if name not in UNITS)
        found = {name: [(float(row[self.unit]), float(row[name])) for row in rows if row.get(name)] for name in names}
        return {name: Curve(*zip(*pairs, strict=True)) for name, pairs in found.items() if pairs}

    @property
    def unit(self) -> str:
        """What the rows of the curves count: ``round`` or ``epoch``."""
        return "round" if any("round" in row for name in CURVES for row in _rows(self.folder / name)[:1]) else "epoch"

    def _configured(self, part: str) -> dict[str, Any]:
        """Return the class and the arguments of ``model`` or ``data``."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder} has no config.yaml, which names its teacher and its data")
        return {"init_args": {}, **(_read(path, yaml.safe_load).get(part) or {})}

    @cached_property
    def teacher(self) -> Observer:
        """The teacher, built from the configuration and frozen."""
        given = self._configured("model")["init_args"].get("teacher")
        if given is None:
            raise ValueError("the run has no teacher")
        return cast(Observer, build_part("teacher", given, Observer, UNBUILT)).freeze()

    @cached_property
    def data(self) -> CondensedDataModule:
        """The datamodule, built from the configuration."""
        given = self._configured("data")
        if "condensed" not in given["init_args"]:
            raise ValueError("the run has no condensed set")
        return cast(CondensedDataModule, build_part("data", given, L.LightningDataModule, UNBUILT))

    @property
    def condensed(self) -> CondensedSet:
        """The condensed set."""
        return self.data.transfer_set.condensed

    @property
    def real(self) -> LabeledImages | None:
        """The held-out images; ``None`` if they are not read into memory."""
        held_out = self.data.val_data
        if not isinstance(held_out, ImageDataModule):
            return None
        return LabeledImages(held_out.val_source.images, held_out.val_source.labels)

    @cached_property
    def synthetic(self) -> LabeledImages:
        """The images of the memory bank, oldest first.

        Raises:
            FileNotFoundError: if no checkpoint lists the bank, or its files are gone.
            ValueError: if the bank is empty.
        """
        for path in newest_first(self.folder, "checkpoints/*.ckpt"):
            state = WholeCheckpointIO().load_checkpoint(path).get("condkd", {}).get("bank")
            if state is not None:
                return _images(state, self.folder)
        raise FileNotFoundError(f"no checkpoint in {self.folder / 'checkpoints'} lists a memory bank")


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each run: the parts of its path that are not the same for all.

    Args:
        folders: folders of the runs.

    Example:
        >>> run_names([Path("a/plain/lightning_logs/version_0"), Path("a/guided/lightning_logs/version_0")])
        ['plain', 'guided']
        >>> run_names([Path("lightning_logs/version_3")])
        ['version_3']
    """
    paths = [folder.absolute().parts for folder in folders]
    if len(set(paths)) < 2 or len(set(map(len, paths))) > 1:
        return [folder.absolute().name if len(set(paths)) < 2 else str(folder) for folder in folders]
    varied = [place for place, parts in enumerate(zip(*paths, strict=True)) if len(set(parts)) > 1]
    return ["/".join(path[place] for place in varied) for path in paths]


def _versions_below(folder: Path) -> str:
    found = sorted((folder / "lightning_logs").glob("version_*"), key=lambda path: path.stat().st_mtime)
    return f": give one of its runs, such as {found[-1]}" if found else ": check the path"


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(path.read_text())
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: expected names with values, got {type(content).__name__}")
    return content


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row for row in rows if any(row.get(unit) for unit in UNITS) and "step" not in row]


def _images(state: Mapping[str, Any], folder: Path) -> LabeledImages:
    bank = MemoryBank(state["capacity"] or None)
    bank.load_state_dict(state, search=[folder / "bank", folder / f"bank_{state['run_id']}"])
    if not len(bank):
        raise ValueError("its memory bank is empty, as of methods that render their images for each student step")
    return LabeledImages(bank.images, bank.labels)
