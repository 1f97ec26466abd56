"""Write our accuracies of each inversion method into the package, for `lightning-condkd methods`, from the results."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import result_files
from lightning_condkd.writing import write_atomic

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "lightning_condkd" / "assets" / "method-figures.json"
TASKS = {"digits": "methods-digits", "cifar10": "methods-cifar10"}
WAYS = {"plain": "", "condensed": " + condensed", "guided": "*"}


def figures() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the last accuracy in percent of each task, method and way, from rows that bear a recipe's plain name."""
    return {task: _of_task(result_files.read(name, {"rows": {}})["rows"]) for task, name in TASKS.items()}


def _of_task(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for recipe in sorted((ROOT / "configs" / "methods").glob("*.yaml")):
        method = yaml.safe_load(recipe.read_text())["model"]["init_args"]["inversion"]["class_path"]
        of = _of_method(method, {way: rows.get(f"{recipe.stem}{name}") for way, name in WAYS.items()})
        found = of | found  # the first of several recipes of one method is its own
    return found | _of_method("NoInversion", {"condensed": rows.get("condensed only")})


def _of_method(method: str, rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    there = {way: row for way, row in rows.items() if row is not None}
    means: dict[str, Any] = {way: round(row["last"]["mean"], 1) for way, row in there.items()}
    return {method: means | {"seeds": min(len(row["runs"]) for row in there.values())}} if there else {}


def main() -> None:
    """Write the file."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_atomic(TARGET, (json.dumps(figures(), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
