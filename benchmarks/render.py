"""Fill the tables and figures of README and docs/ from the result files."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pages import markers
from benchmarks.pages.figures import evaluate
from benchmarks.pages.specs import render_table
from lightning_condkd.writing import write_atomic

ROOT = Path(__file__).resolve().parents[1]


def pages(root: Path = ROOT) -> list[Path]:
    """Return the pages that may have markers."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def rendered(page: Path) -> str:
    """Return a page as it should be.

    Raises:
        ValueError: if a marker is wrong; the message names the page.
        LookupError: if a result file does not have what a marker asks for; the message names the page.
    """
    try:
        return markers.fill(page.read_text(), render_table, evaluate)
    except (LookupError, ValueError) as error:
        raise type(error)(f"{page.name}: {error}") from error


def difference(page: Path) -> str:
    """Return how a page differs from what it should be; empty if it does not."""
    old, new = (text.splitlines(keepends=True) for text in (page.read_text(), rendered(page)))
    return "".join(difflib.unified_diff(old, new, fromfile=page.name, tofile=f"{page.name}, rendered"))


def main() -> None:
    """Render the pages, or check that they are rendered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with a diff where a page is behind")
    if parser.parse_args().check:
        found = "".join(map(difference, pages()))
        if found:
            raise SystemExit(f"{found}\nrun python benchmarks/render.py")
        return
    for page in pages():
        if difference(page):
            write_atomic(page, rendered(page).encode())
            print(f"rendered {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
