"""What two ranks type."""

from __future__ import annotations

from lightning_condkd.cli import main


def command(arguments: list[str]) -> dict[str, int]:
    """Run the command line on this rank; the ranks have found each other already."""
    main(arguments)
    return {"done": 1}


def refused(arguments: list[str]) -> dict[str, str]:
    """Run a command line that is refused, and return what this rank says."""
    try:
        main(arguments)
    except OSError as error:
        return {"error": str(error)}
    return {}
