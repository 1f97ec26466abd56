"""A file imports lower floors and its own folder only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_condkd"
FLOORS = {
    "assets": 0,
    "types": 0,
    "distributed": 0,
    "randomness": 0,
    "unpickling": 0,
    "rounds": 0,
    "precision": 0,
    "pixels": 0,
    "writing": 0,
    "files": 0,
    "functional": 1,
    "augment": 2,
    "models": 2,
    "condensation": 3,
    "inversion": 3,
    "alignment": 3,
    "distillation": 3,
    "data": 3,
    "evaluation": 3,
    "modules": 4,
    "callbacks": 5,
    "parser": 5,
    "cli": 6,
    "__main__": 7,
}
LIGHTNING = {"modules", "callbacks", "parser", "cli", "__main__"}
SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = room(path)
    for name in imported(path):
        if name.startswith("lightning_condkd."):
            other = name.split(".")[1]
            assert other == own or FLOORS[other] < max(FLOORS[own], 1), f"{own} (floor {FLOORS[own]}) imports {other}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_lightning_stays_upstairs(path: Path) -> None:
    allowed = room(path) in LIGHTNING or path.name.startswith("datamodule")
    uses = {name.split(".")[0] for name in imported(path)} & {"lightning", "pytorch_lightning"}
    assert allowed or not uses
