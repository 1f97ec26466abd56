"""The Python of every page runs as it stands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.helpers.pages import DOCS, blocks, write_files

AFTER_COMMANDS = ("own-data",)  # see test_walkthroughs.py: its Python reads what its commands wrote
PAGES = [page for page in DOCS if page.stem not in AFTER_COMMANDS]
WITH_PYTHON = [page for page in PAGES if any(not block.skipped for block in blocks(page, "python"))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a page share their names and a working folder with the files that the page shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_files(page, tmp_path)
    before = set(sys.modules)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        if not block.skipped and block.name is None:
            exec(compile(block.code, f"{page.name}", "exec"), names)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_only_named_reasons_skip_code(page: Path) -> None:
    skipped = [block for block in blocks(page, "python", "bash") if block.skipped]
    assert page.read_text().count("<!-- skip:") == len(skipped)
