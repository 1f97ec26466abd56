"""Every script runs as a file, wherever it is typed, and takes every command that the pages name."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.helpers.pages import PAGES, code

SCRIPTS = sorted(path for path in (ROOT / "benchmarks").rglob("*.py") if "__main__" in path.read_text())
# With or without `python benchmarks/` before; a script alone, without arguments, is a name and no command.
COMMAND = re.compile(r"(?<![\w/])(?:python3? )?(?:benchmarks/)?((?:(?<=benchmarks/)\w+|\w+/\w+)\.py) ([^`\n#]+)")
COMMANDS = sorted({found for page in PAGES for text in code(page) for found in COMMAND.findall(text)})


class ParsedError(Exception):
    """Ends a script whose arguments were taken."""


@pytest.fixture
def as_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No script has been imported yet, and none would be found from here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "benchmarks").exists()])
    imported = remove_scripts()
    yield
    remove_scripts()
    sys.modules.update(imported)


def remove_scripts() -> dict[str, Any]:
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] == "benchmarks"}


@pytest.mark.usefixtures("as_a_file")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_help(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {path.name}")


@pytest.mark.usefixtures("as_a_file")
@pytest.mark.parametrize(("name", "arguments"), COMMANDS)
def test_commands_of_the_pages(name: str, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(*given: Any) -> None:
        parse(*given)
        raise ParsedError

    path = str(ROOT / "benchmarks" / name)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
    monkeypatch.setattr(sys, "argv", [path, *shlex.split(arguments)])
    with pytest.raises(ParsedError):
        runpy.run_path(path, run_name="__main__")


def test_the_pages_name_commands() -> None:
    assert len(SCRIPTS) > 15
    assert len(COMMANDS) > 12
