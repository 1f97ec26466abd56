"""The pages of the repository and the code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "benchmarks").rglob("*.md")),
    *sorted((ROOT / "docs" / "results").glob("*.md")),
    *sorted((ROOT / "docs").glob("choose-*.md")),
)
CODE = re.compile(r"^```\w*\n(.*?)^```|^ {4,}(\S[^\n]*)$|`([^`]+)`", flags=re.MULTILINE | re.DOTALL)


def code(page: Path) -> Iterator[str]:
    """Yield what a page shows as code: each block, indented line, and span of a line, which may go on in the next."""
    for block, line, span in CODE.findall(page.read_text()):
        yield block or line or re.sub(r"\s+", " ", span)
