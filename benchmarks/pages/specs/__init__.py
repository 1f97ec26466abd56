"""Every table of the pages, by name."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.pages.layout import Table
from benchmarks.pages.specs import (
    alignments,
    condensed_sets,
    condkd,
    cost,
    diffusion,
    gpu,
    losses,
    method_cards,
    methods,
    resume,
)

TABLES: dict[str, Callable[[], Table | str]] = {
    name: table
    for tables in (
        condkd.TABLES,
        methods.TABLES,
        method_cards.TABLES,
        alignments.TABLES,
        losses.TABLES,
        condensed_sets.TABLES,
        diffusion.TABLES,
        cost.TABLES,
        gpu.TABLES,
        resume.TABLES,
    )
    for name, table in tables.items()
}


def render_table(name: str) -> str:
    """Return the lines of a table.

    Args:
        name: one of ``TABLES``.

    Raises:
        LookupError: if there is no such table.
    """
    if name not in TABLES:
        raise LookupError(f"there is no table {name!r}; there are: {', '.join(TABLES)}")
    return str(TABLES[name]())
