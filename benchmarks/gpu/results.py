"""Result files of the kit: one for each stage, grown item by item over several machines."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gpu import packed
from benchmarks.support import result_files

Entry = dict[str, Any]


class Results:
    """The items that are known of every stage, in ``gpu-<stage>.json`` files.

    Args:
        folder: where they are written.
        seen: folder whose files are taken over first; what they hold is not run again.
    """

    def __init__(self, folder: Path, seen: Path | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in seen.glob("gpu-*.json") if seen is not None and seen.resolve() != folder.resolve() else ():
            shutil.copy(path, folder)

    def items(self, stage: str) -> dict[str, Entry]:
        """Return what is known of a stage by item.

        Args:
            stage: its name.
        """
        path = self._path(stage)
        return json.loads(path.read_text())["items"] if path.exists() else {}

    def missing(self, stage: str, names: list[str], seconds: float) -> list[str]:
        """Return the items to be run, in order: those never tried, then those that failed or ran over.

        Args:
            stage: its name.
            names: all its items.
            seconds: not used; see :meth:`partial`.
        """
        known = {name: entry["status"] for name, entry in self.items(stage).items()}
        return [n for n in names if n not in known] + [n for n in names if known.get(n) in ("failed", "over")]

    def partial(self, stage: str, names: list[str], seconds: float) -> list[str]:
        """Return the items that stopped before their published length and can come further now.

        Args:
            stage: its name.
            names: all its items.
            seconds: that they would have.
        """
        known = self.items(stage)
        halves = {n: e["seconds"] for n, e in known.items() if e["status"] == "partial"}
        return [name for name in names if halves.get(name, seconds) < seconds]

    def whole_seconds(self, stage: str, card: str) -> float:
        """Return what the quickest whole item of a stage took on such a card; 0 where none is known.

        Args:
            stage: its name.
            card: name of the card.
        """
        known = self.items(stage).values()
        return min((e["seconds"] for e in known if e["status"] == "done" and e["origin"]["card"] == card), default=0.0)

    def add(self, stage: str, item: str, entry: Entry) -> None:
        """Write an item; a result that is there is not replaced by a failure, nor by one that came less far.

        Args:
            stage: its name.
            item: the item's.
            entry: ``status``, ``seconds``, ``origin`` and ``result`` or ``error``.
        """
        items = self.items(stage)
        if _worth(entry) < _worth(items.get(item)):
            return
        content = json.dumps({"stage": stage, "items": {**items, item: entry}}, indent=1) + "\n"
        path = self._path(stage)
        path.with_suffix(".new").write_text(content)
        path.with_suffix(".new").replace(path)

    def _path(self, stage: str) -> Path:
        return self.folder / f"gpu-{stage}.json"


def _worth(entry: Entry | None) -> tuple[int, float]:
    if entry is None or entry["status"] in ("failed", "over"):
        return 0, 0.0
    return (2 if entry["status"] == "done" else 1), float(entry["result"].get("rounds", 0))


def origin(device: str, pack: Path) -> Entry:
    """Return card, driver, versions, commit and command; nothing here touches the card, so processes can be forked.

    Args:
        device: ``cuda`` or ``cpu``.
        pack: folder of ``prepare.py``, which knows the commit where there is no repository.
    """
    card, driver = _card() if device == "cuda" else ("none", "none")
    return {
        "card": card,
        "driver": driver,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in ("torch", "torchvision", "lightning", "torchmetrics", "kornia")}
        | {"python": platform.python_version()},
        "commit": _commit(pack),
        "command": ["python", "benchmarks/gpu/run.py", *("FOLDER" if a.startswith("/") else a for a in sys.argv[1:])],
    }


def _commit(pack: Path) -> str:
    """Return the commit that the pack was made at if this is its code; a lent machine has no history of its own."""
    path = pack / packed.FACTS
    facts = json.loads(path.read_text()) if path.exists() else {}
    root = Path(__file__).resolve().parents[2]
    return facts["commit"] if facts.get("code") == packed.code(root) else result_files.origin()["commit"]


def _card() -> tuple[str, str]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    name, driver = said.splitlines()[0].split(", ")
    return name, driver
