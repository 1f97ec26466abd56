"""Packaged files: small teachers and condensed sets."""

from __future__ import annotations

from pathlib import Path

SCHEME = "package:"
_FOLDER = Path(__file__).parent


def available_assets() -> tuple[str, ...]:
    """Return the names of the files for ``package:<name>``."""
    return tuple(sorted(p.name for p in _FOLDER.iterdir() if p.is_file() and p.suffix not in (".py", ".pyc")))


def resolve_asset(path: str | Path) -> Path:
    """Return the path of a file; ``package:<name>`` is a packaged file.

    Args:
        path: a path, or ``package:`` followed by the name of a file in this folder.

    Returns:
        The path of the packaged file, or the unchanged given path.

    Raises:
        FileNotFoundError: if there is no such packaged file.

    Example:
        >>> resolve_asset("runs/teacher.safetensors").name
        'teacher.safetensors'
    """
    text = str(path)
    if not text.startswith(SCHEME):
        return Path(path)
    name = text.removeprefix(SCHEME)
    if name not in available_assets():
        names = ", ".join(available_assets()) or "none"
        raise FileNotFoundError(
            f"expected the name of a packaged file after {SCHEME!r}, got {name!r}; there are: {names}"
        )
    return _FOLDER / name
