"""Published numbers: typed once, in one file, with their sources."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "published.json"


@cache
def content() -> dict[str, dict[str, Any]]:
    """Return all tables of published numbers, each with its source and rows."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text())
    return found


def number(table: str, row: str, column: str = "accuracy") -> str:
    """Return a published number as its source has it.

    Args:
        table: such as ``losses``.
        row: name of a method.
        column: such as ``CIFAR-100``.

    Raises:
        LookupError: if it is not there.
    """
    rows: dict[str, dict[str, str]] = content()[table]["rows"]
    if column not in rows.get(row, {}):
        raise LookupError(f"published.json has no {column!r} of {row!r} in {table!r}")
    return rows[row][column]


def cell(table: str, row: str, column: str = "accuracy") -> str:
    """Return a published number, or a dash where none is known."""
    there = row in content()[table]["rows"] and column in content()[table]["rows"][row]
    return number(table, row, column) if there else "-"


def source(table: str) -> str:
    """Return where the numbers of a table come from."""
    return str(content()[table]["source"])
