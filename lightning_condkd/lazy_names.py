"""Lazy names of a package: its files are imported at the first use of one of their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

Lookup = tuple[Callable[[str], object], Callable[[], list[str]]]


def lazy_names(package: dict[str, Any], files: Sequence[str]) -> Lookup:
    """Return ``__getattr__`` and ``__dir__`` of a package, so that importing the package does not import its files.

    Args:
        package: ``globals()`` of the package, with ``__all__``; requested names are stored in it.
        files: names of its files and packages in the order of the search for a name, those that import quickly first.

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
