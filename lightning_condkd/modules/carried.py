"""What a class keeps of the arguments of another whose place it takes on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pydoc import locate
from typing import Any, NamedTuple, cast
from unittest.mock import patch

from jsonargparse import Namespace, _typehints
from lightning.pytorch.utilities import rank_zero_warn

DISCARD = "discard_init_args_on_class_path_change"


class Change(NamedTuple):
    """A class in the place of another.

    Args:
        before: path of the class that an earlier configuration or flag named.
        after: path of the class in its place.
    """

    before: str
    after: str


Carried = dict[Change, dict[str, Any]]


@contextmanager
def noting_carried_over() -> Iterator[Carried]:
    """Note, while a command line is parsed, which arguments a class takes over from the one before it.

    The parser keeps all that the new class accepts too, without a word. Nothing is noted with a version of jsonargparse
    that does it elsewhere: the function is a private one.
    """
    noted: Carried = {}
    discard = getattr(_typehints, DISCARD, None)
    if discard is None:
        yield noted
        return

    def noting(parser: Any, before: Any, after: Any) -> None:  # noqa: ANN401 - private records of the parser
        discard(parser, before, after)
        if before and "init_args" in before and before["class_path"] != after["class_path"]:
            stated = _leaves(after.get("init_args"))
            kept = {name: value for name, value in _leaves(before["init_args"]).items() if name not in stated}
            noted.setdefault(Change(before["class_path"], after["class_path"]), {}).update(kept)

    with patch.object(_typehints, DISCARD, noting):
        yield noted


def warn_of_carried_over(noted: Carried, config: Namespace) -> None:
    """Say which arguments in a configuration come from a class that is no longer there, and are not the new one's own.

    Args:
        noted: of :func:`noting_carried_over`.
        config: the parsed configuration.
    """
    for path, arguments in _classes(config.as_dict()):
        for change, kept in noted.items():
            usual = _defaults(path) if change.after == path else {}
            same = {n: v for n, v in kept.items() if change.after == path and n in arguments and arguments[n] == v}
            _warn(change, {name: value for name, value in same.items() if name not in usual or usual[name] != value})


def _warn(change: Change, kept: Mapping[str, Any]) -> None:
    if kept:
        old, new = (path.rsplit(".", 1)[-1] for path in change)
        values = ", ".join(f"{name}={value}" for name, value in kept.items())
        rank_zero_warn(
            f"{new} takes the place of {old} and keeps of its arguments {values}, which are not those that {new} has "
            "by itself: state the ones that should be others, as flags or in a configuration"
        )


def _classes(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - any part of a configuration
    if isinstance(part, dict):
        if isinstance(part.get("class_path"), str):
            yield part["class_path"], _leaves(part.get("init_args"))
        part = list(part.values())
    for inner in part if isinstance(part, list) else []:
        yield from _classes(inner)


def _defaults(path: str) -> dict[str, Any]:
    try:
        parameters = inspect.signature(cast(type, locate(path))).parameters
    except (TypeError, ValueError):  # something without a signature
        return {}
    return _leaves({name: parameter.default for name, parameter in parameters.items()})


def _leaves(part: Any, name: str = "") -> dict[str, Any]:  # noqa: ANN401 - likewise
    """Return the values under a part of a configuration by their dotted names."""
    if is_dataclass(part) and not isinstance(part, type):
        part = asdict(part)
    if isinstance(part, Namespace):
        part = part.as_dict()
    if not isinstance(part, dict):
        return {name: part} if name else {}
    inner = (_leaves(value, f"{name}.{key}" if name else str(key)) for key, value in part.items())
    return {leaf: value for leaves in inner for leaf, value in leaves.items()}
