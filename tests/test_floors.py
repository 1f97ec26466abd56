"""The floor plan: a file imports lower floors and its own room, and no files import each other in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_condkd"
NAME = PACKAGE.name
GROUND = (
    "assets",
    "types",
    "rounds",
    "randomness",
    "distributed",
    "precision",
    "pixels",
    "image_grids",
    "progress",
    "normalization",
    "lazy_names",
    "messages",
)
FILES = ("writing", "files", "unpickling", "hashing", "subclassing", "config_file")
ROOMS = (
    (*GROUND, *FILES),
    ("functional",),
    ("augment", "models", "formats"),
    ("condensation", "inversion", "alignment", "distillation", "evaluation", "data"),
    ("steps",),
    ("training", "figures"),
    ("modules",),
    ("parser",),
    ("callbacks", "commands"),
    ("interruption",),
    ("cli",),
    ("entry",),
    ("__main__",),
)
FLOORS = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
LIGHTNING = {"training", "modules", "callbacks", "commands", "parser", "interruption", "cli", "entry"}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in SOURCES}


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, also inside functions and for types alone."""
    return names_in(path.read_text())


def names_in(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def exported(package: str) -> dict[str, str]:
    """Return the file of each name that a package's ``__init__`` passes on."""
    if MODULES.get(package, PACKAGE).name != "__init__.py":
        return {}
    return {name.rsplit(".", 1)[-1]: name.rsplit(".", 1)[0] for name in imported(MODULES[package])}


def files_imported(names: set[str]) -> Iterator[str]:
    """Return the modules behind imported names: the file itself where a package passes a name on."""
    for name in (name for name in names if name.startswith(f"{NAME}.")):
        module, _, last = name.rpartition(".")
        yield name if name in MODULES else exported(module).get(last, module)


def room(module: str) -> str:
    return module.split(".")[1]


def faults(module: str, names: set[str]) -> list[str]:
    """Return what is wrong with the imports of a file."""
    own = room(module)
    above = {name for name in files_imported(names) if room(name) != own and FLOORS[room(name)] >= max(FLOORS[own], 1)}
    parts = {name for name in names if name.startswith(f"{NAME}.") and ".parts." in name and room(name) != own}
    return [f"{module} imports {name}" for name in sorted(above | parts)]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return files that import each other, directly or through others."""
    reached = {start: reachable(start, edges) for start in edges}
    inside = [start for start in edges if start in reached[start]]
    return [sorted({start, *(end for end in reached[start] if start in reached[end])}) for start in inside]


def reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    assert faults(dotted(path), imported(path)) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    files = {module: path for module, path in MODULES.items() if path.name != "__init__.py"}
    edges = {module: set(files_imported(imported(path))) & set(files) for module, path in files.items()}
    assert circles(edges) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_lightning_stays_upstairs(path: Path) -> None:
    allowed = room(dotted(path)) in LIGHTNING or "datamodule" in path.name
    uses = {name.split(".")[0] for name in imported(path)} & {"lightning", "pytorch_lightning"}
    assert allowed or not uses


ONE_PLACE = {
    "hashlib": {"hashing", "randomness"},
    "safetensors.safe_open": {"files"},
    "safetensors.torch.load_file": {"files"},
    "safetensors.torch.load": {"files"},
}


@pytest.mark.parametrize("name", ONE_PLACE)
def test_what_has_one_place_is_used_nowhere_else(name: str) -> None:
    users = {path.stem for path in SOURCES if any(f"{one}.".startswith(f"{name}.") for one in imported(path))}
    assert users <= ONE_PLACE[name]


def test_long_lists_of_names_are_cut_in_one_place() -> None:
    cut = re.compile(r"join\([^()]*\[:\d+\]\)|\[:\d+\]\)?\} \.\.\.|\*\w+\[:\d+\], \*")
    assert [path.stem for path in SOURCES if cut.search(path.read_text())] == []


def test_what_the_plan_forbids_is_found() -> None:
    fast, lazy = f"{NAME}.inversion.fast", "def load():\n    from lightning_condkd.modules import CondKD"
    assert faults(fast, names_in(lazy)) == [f"{fast} imports {NAME}.modules.condkd"]
    assert len(faults(fast, {f"{NAME}.data.bank.MemoryBank"})) == 1  # stages do not know each other
    assert len(faults(f"{NAME}.training.resumable", {f"{NAME}.inversion.parts.generator.make_generator"})) == 1
    assert faults(fast, {f"{NAME}.inversion.parts.generator.make_generator", f"{NAME}.models.Observer"}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]] * 3
