"""Files that the package carries: small teachers and condensed sets."""

from __future__ import annotations

from pathlib import Path

_SCHEME = "package:"
_FOLDER = Path(__file__).parent


def available_assets() -> tuple[str, ...]:
    """Return the names of the files that ``package:`` can reach."""
    return tuple(sorted(p.name for p in _FOLDER.iterdir() if p.is_file() and p.suffix not in (".py", ".pyc")))


def resolve_asset(path: str | Path) -> Path:
    """Return where a file lies; ``package:<name>`` names one that the package carries.

    Args:
        path: a path, or ``package:`` followed by the name of a file in this folder.

    Returns:
        The path of the packaged file, or the given path as it is.

    Raises:
        FileNotFoundError: if the package carries no such file.

    Example:
        >>> resolve_asset("runs/teacher.safetensors").name
        'teacher.safetensors'
    """
    text = str(path)
    if not text.startswith(_SCHEME):
        return Path(path)
    name = text.removeprefix(_SCHEME)
    if name not in available_assets():
        names = ", ".join(available_assets()) or "none"
        raise FileNotFoundError(
            f"expected the name of a packaged file after {_SCHEME!r}, got {name!r}; there are: {names}"
        )
    return _FOLDER / name
