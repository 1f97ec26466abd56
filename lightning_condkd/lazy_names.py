"""Names that a package passes on from its files, which are imported when one of their names is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

Lookup = tuple[Callable[[str], object], Callable[[], list[str]]]


def lazy_names(package: dict[str, Any], files: Sequence[str]) -> Lookup:
    """Return ``__getattr__`` and ``__dir__`` for a package, so that to import it does not import what it passes on.

    Args:
        package: its ``globals()``, with ``__all__``; they keep what was asked for.
        files: names of its files and packages, in the order in which a name is looked for, quick to import ones first.

    Example:
        >>> find, names = lazy_names({"__name__": "concurrent", "__all__": ["Future"]}, ["futures"])
        >>> find("Future").__name__, names()
        ('Future', ['Future', '__all__', '__name__'])
        >>> find("Past")
        Traceback (most recent call last):
        AttributeError: module 'concurrent' has no attribute 'Past'
    """

    def find(name: str) -> object:
        for file in files if name in package["__all__"] else ():
            module = import_module(f"{package['__name__']}.{file}")
            if hasattr(module, name):
                return package.setdefault(name, getattr(module, name))
        raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")

    return find, lambda: sorted({*package, *package["__all__"]})
