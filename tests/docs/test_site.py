"""The pages build without a warning, and the API has every public name; links between pages resolve."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers.pages import DOCS

ROOMS = sorted(path.parent.name for path in (ROOT / "lightning_condkd").glob("*/__init__.py"))
INNER = {"assets", "commands", "training", "functional"}  # functional has a section for each of its files
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)")


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as MyST makes them."""
    titles = re.findall(r"^#{1,3} (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_links_and_anchors_of_a_page_resolve(page: Path) -> None:
    for name, anchor in LINK.findall(page.read_text()):
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


@pytest.mark.parametrize("room", sorted(set(ROOMS) - INNER))
def test_every_room_has_a_page_of_the_api(room: str) -> None:
    assert f".. automodule:: lightning_condkd.{room}\n" in (ROOT / "docs" / "api" / f"{room}.md").read_text()


def test_every_file_of_formulas_is_in_the_api() -> None:
    page = (ROOT / "docs" / "api" / "functional.md").read_text()
    files = {path.stem for path in (ROOT / "lightning_condkd" / "functional").glob("[a-z]*.py")}
    assert set(re.findall(r"automodule:: lightning_condkd\.functional\.(\w+)", page)) == files


@pytest.mark.docs
def test_the_pages_build_without_a_warning_and_show_every_public_name(tmp_path: Path) -> None:
    """In a process of its own: Sphinx changes the signatures of the functions that it documents."""
    inventories = pytest.importorskip("sphinx.util.inventory")
    pytest.importorskip("myst_parser")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(build, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    inventory = inventories.InventoryFile.loads((tmp_path / "objects.inv").read_bytes(), uri="")
    known = {name for kind, found in inventory.data.items() if kind.startswith("py:") for name in found}
    shown = {name.rsplit(".", 1)[-1] for name in known}
    rooms = [importlib.import_module(f"lightning_condkd.{room}") for room in sorted(set(ROOMS) - INNER)]
    assert len(rooms) >= 10
    assert [f"{room.__name__}.{name}" for room in rooms for name in room.__all__ if name not in shown] == []
