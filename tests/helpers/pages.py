"""The pages of the repository and the code in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

README = ROOT / "README.md"
DOCS = tuple(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts)
PAGES = (README, *sorted((ROOT / "benchmarks").rglob("*.md")), *DOCS)
CODE = re.compile(r"^```\w*\n(.*?)^```|^ {4,}(\S[^\n]*)$|`([^`]+)`", flags=re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^(<!-- skip: .+? -->\n)?```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.-]+\.\w+)\n")


class Block(NamedTuple):
    """A block of code of a page; one with a name is shown as a file of this name."""

    language: str
    code: str
    name: str | None
    skipped: bool


def code(page: Path) -> Iterator[str]:
    """Yield what a page shows as code: each block, indented line, and span of a line, which may go on in the next."""
    for block, line, span in CODE.findall(page.read_text()):
        yield block or line or re.sub(r"\s+", " ", span)


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of some languages in a page, skipped ones included."""
    found = []
    for skip, language, text in BLOCK.findall(page.read_text()):
        if language in languages:
            named = FILE.match(text)
            found.append(Block(language, text, named and named[1], bool(skip)))
    return found


def write_files(page: Path, folder: Path) -> None:
    """Write the blocks that a page shows as files, and links to the recipes, into a folder."""
    for block in blocks(page, "yaml", "python", "text"):
        if block.name is not None:
            (folder / block.name).write_text(block.code)
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(ROOT / "configs")


def commands(page: Path) -> list[list[str]]:
    """The arguments of each ``lightning-condkd`` line in the bash blocks of a page, as a shell would split them."""
    lines = [
        line
        for block in blocks(page, "bash")
        if not block.skipped
        for line in block.code.replace("\\\n", " ").splitlines()
    ]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[words.index("lightning-condkd") + 1 :] for words in split if "lightning-condkd" in words]
