"""The texts that the package may show, with a mark where it puts in values."""

from __future__ import annotations

import ast
from functools import cache

from tests.conftest import ROOT

VALUE = "\0"


@cache
def texts() -> tuple[str, ...]:
    """Every string of the package's sources that is no docstring."""
    found = []
    for path in sorted((ROOT / "lightning_condkd").rglob("*.py")):
        found += [_text(node) for node in ast.walk(ast.parse(path.read_text())) if _is_text(node)]
    return tuple(found)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    assert isinstance(node, ast.Constant)
    return str(node.value)
