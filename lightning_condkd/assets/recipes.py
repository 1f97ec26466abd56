"""Recipes of the command line: the files of ``configs/``, which a wheel holds within the package."""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from textwrap import shorten

from lightning_condkd.assets import SCHEME

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # of a wheel, of the repository
_SIGN = "quickstart.yaml"  # tells our folder from another project's of this name beside an incomplete installation
_END = re.compile(r"\.(?:\s|$)|:\s+(?:fit|lightning-condkd)\s")  # of a sentence, or before a command


def _folder() -> Path | None:
    return next((folder for folder in _FOLDERS if (folder / _SIGN).is_file()), None)


def available_recipes() -> tuple[str, ...]:
    """Return the names of the recipes for ``--config package:<name>``.

    Example:
        >>> [name for name in available_recipes() if name.startswith("cifar10/d")]
        ['cifar10/dc.yaml', 'cifar10/dm.yaml', 'cifar10/dsa.yaml']
    """
    folder = _folder()
    return () if folder is None else tuple(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml")))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: one of :func:`available_recipes`, with or without ``package:`` before it.

    Raises:
        FileNotFoundError: if there is no such recipe.

    Example:
        >>> recipe_path("package:quickstart.yaml").name
        'quickstart.yaml'
        >>> recipe_path("package:quickstart.yml")
        Traceback (most recent call last):
        ...
        FileNotFoundError: expected the name of a recipe after 'package:', got 'quickstart.yml', did you mean
        quickstart.yaml? --config package: lists all
    """
    wanted, names, folder = name.removeprefix(SCHEME), available_recipes(), _folder()
    if folder is None:
        raise FileNotFoundError("the recipes are missing in this installation: install the package again")
    if wanted not in names:
        near = _near(wanted, names)
        raise FileNotFoundError(
            f"expected the name of a recipe after {SCHEME!r}, got {wanted!r}"
            f"{f', did you mean {near}?' if near else ';'} --config {SCHEME} lists all"
        )
    return folder / wanted


def _near(wanted: str, names: tuple[str, ...]) -> str:
    """Return the most similar names, of all folders if only the last part of a name was given."""
    same_file = [name for name in names if wanted and Path(name).stem == Path(wanted).stem]
    return " or ".join(same_file[:3] or get_close_matches(wanted, names, n=2, cutoff=0.7))


def recipe_title(name: str) -> str:
    """Return what a recipe is: the first sentence of the comment that it begins with, cut to a line.

    Args:
        name: one of :func:`available_recipes`.

    Example:
        >>> recipe_title("quickstart.yaml")
        'Handwritten digits, one condensed image per class: CondKD on Fast'
        >>> recipe_title("losses/simkd.yaml")
        "SimKD: the teacher's final layer classifies for the student, laid over a task of CondKD or Distillation"
    """
    lines = takewhile(lambda line: line.startswith("#"), recipe_path(name).read_text(encoding="utf-8").splitlines())
    text = " ".join(line.removeprefix("#").strip() for line in lines)
    return shorten(_END.split(text)[0], 110, placeholder=" ...")
