"""Parser of the command line, with errors of one line that name the argument, and with short helps."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from pydoc import locate
from typing import Any, NamedTuple, NoReturn, cast, get_origin
from unittest.mock import patch

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, _typehints, set_dumper
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_warn

from lightning_condkd.config_file import UNWRITABLE, ConfigFile, dump_yaml, is_config_action

DISCARD = "discard_init_args_on_class_path_change"

TRACEBACK = "LIGHTNING_CONDKD_TRACEBACK"
LIBRARIES = ("torch.", "torchvision.", "kornia.", "torchmetrics.", "lightning.", "diffusers.", "transformers.")
PLACES = ("lightning_condkd", "lightning.pytorch.callbacks", "torch.optim.")
FEW = 12  # classes of libraries that a help lists
ALONE = ("-h", "--help", "--print_config")  # flags without a value
KEY = re.compile(r'Parser key "([^"]+)":')
CLASS = re.compile(r"Problem with given class_path '([\w.]+)':")
VALUE = re.compile(r"(?:Given value|Got value): (?:NestedArg\(key='.*?', val=(?=.*\)$))?(.*?)\)?$")
TYPE = re.compile(r"Expected an? (<class '[\w.]+'>|typing\.\S+\[.*?\])(?:\. Got value: .*)?$")
TRIED = re.compile(
    r"Does not validate against any|Subtypes: |Errors:$|Given value|Expected a <class 'NoneType'>"
    r"|Expected a path but .* either not accessible or invalid"
)
NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
NO_ARGUMENT = re.compile(r"unrecognized arguments: |Option '.*' is not accepted")
EXAMPLES = {"Sequence": "a list such as '[0.49, 0.48, 0.45]'", "Mapping": "a mapping such as '{name: value}'"}
SUBCLASSES = re.compile(r"known subclasses: ([\w., ]+)")

set_dumper("yaml", dump_yaml)
warnings.filterwarnings("ignore", message=f"\\s*{UNWRITABLE}")  # such values are left out


class ShortHelp(DefaultHelpFormatter):
    """Help that lists the classes of this package by name, and only counts the classes of the libraries."""

    def _get_help_string(self, action: Any) -> str:  # noqa: ANN401 - argparse's own
        return SUBCLASSES.sub(_few_subclasses, super()._get_help_string(action))


class ReadableParser(ArgumentParser):
    """Parser with short helps and errors of one line: the argument, what was expected and what was given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of the base
        kwargs.setdefault("formatter_class", ShortHelp)
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of the base
        """Add an argument; one for a configuration file also takes recipes of this package."""
        if is_config_action(kwargs.get("action")):
            kwargs["action"] = ConfigFile
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error in one line and end the process with return code 2.

        Args:
            message: the parser's message, which may have many lines.
            ex: the exception that caused it.
        """
        if os.environ.get(TRACEBACK) or not self.exit_on_error:  # a parser within another, which prints it
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        sys.stderr.write(
            f"error: {readable(message)}\n(all arguments: {parser.prog.replace(' [options]', '')} --help)\n"
        )
        self.exit(2)

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Namespace:  # type: ignore[override]  # noqa: ANN401
        """Parse; a list without a flag, such as the runs of ``draw``, is given as several words.

        Args:
            args: the arguments; ``None`` for those of the process.
            more: of the base.
            options: of the base.
        """
        given = list(sys.argv[1:] if args is None else args)
        for action in self._actions:
            if not action.option_strings and get_origin(getattr(action, "_typehint", None)) is list:
                action.metavar = f"{action.dest.upper()} ..."
                given = _in_one_word(given)
        return super().parse_args(given, *more, **options)


class ReadableLightningParser(ReadableParser, LightningArgumentParser):
    """:class:`ReadableParser` for LightningCLI."""


def _in_one_word(given: list[str]) -> list[str]:
    """Return arguments with all words that belong to no flag as one list, first."""
    flags = [flag.startswith("-") for flag in given]
    taken = [flag and "=" not in one and one not in ALONE for flag, one in zip(flags, given, strict=True)]
    free = [not flag and not before for flag, before in zip(flags, [False, *taken], strict=False)]
    words = [one for one, is_free in zip(given, free, strict=True) if is_free]
    rest = [one for one, is_free in zip(given, free, strict=True) if not is_free]
    return [json.dumps(words), *rest] if words else rest


def _few_subclasses(found: re.Match[str]) -> str:
    paths = [path for path in map(str.strip, found[1].split(",")) if path and ".parts." not in path]
    names = [path.rsplit(".", 1)[-1] for path in paths]
    own = [path for path in paths if not path.startswith(LIBRARIES)]
    shown = own if len(paths) - len(own) > FEW else paths
    words = [path.rsplit(".", 1)[-1] if names.count(path.rsplit(".", 1)[-1]) == 1 else path for path in shown]
    rest = len(paths) - len(shown)
    return "known subclasses: " + ", ".join([*words, *([f"{rest} of the libraries"] if rest else [])])


CURES = {"teacher": ": wrap the network, with class_path Observer and init_args network, mean and std"}


class _Part(NamedTuple):
    indent: int
    keys: tuple[str, ...]
    owner: str | None
    text: str


def readable(message: str) -> str:
    r"""Return the line of a parser's error that states the cause, with the full name of the argument.

    Args:
        message: an error of jsonargparse, with all its nested attempts.

    Example:
        >>> readable('Parser key "data":\n  Problem with given class_path \'a.B\':\n    Parser key "n":\n'
        ...          "      Expected a <class 'int'>. Got value: many")
        'data.n: expected int, got many'
    """
    parts = list(_parts(message))
    if not parts or not KEY.search(message):
        return message
    chosen = [part for part in parts if part.indent == max(part.indent for part in parts)]
    types = [_type_name(found[1]) for part in chosen if (found := TYPE.match(part.text))]
    said = [_cause(part) for part in chosen if not TYPE.match(part.text) and not (types and NO_CLASS.match(part.text))]
    if types:
        said.append(f"expected {' or '.join(dict.fromkeys(types))}{_given(message)}")
    name = ".".join(chosen[0].keys)
    return (f"{name}: " if name else "") + "; ".join(dict.fromkeys(said))


def _parts(message: str) -> Iterator[_Part]:
    """Yield the causes in a message, each with its arguments and the class that they belong to."""
    keys: list[tuple[int, str]] = []
    owners: list[tuple[int, str]] = []
    for line in filter(str.strip, message.splitlines()):
        words = line.strip().removeprefix("- ")
        indent = len(line) - len(line.lstrip(" -"))
        keys = [(depth, key) for depth, key in keys if depth < indent]
        owners = [(depth, owner) for depth, owner in owners if depth < indent]
        for pattern, stack in ((KEY, keys), (CLASS, owners)):
            if found := pattern.match(words):
                stack.append((indent, found[1]))
                words = words[found.end() :].strip()
        if words and not TRIED.match(words):
            yield _Part(indent, tuple(key for _, key in keys), owners[-1][1] if owners else None, words)


def _cause(part: _Part) -> str:
    if found := NO_CLASS.match(part.text):
        if found[1] in (names := _class_names()):
            cure = CURES.get(part.keys[-1] if part.keys else "", "")
            return f"{found[1]} is a class of another kind than is expected here{cure}"
        near = get_close_matches(found[1], names, n=3)
        return f"found no class or file {found[1]!r}" + (f", did you mean {' or '.join(near)}?" if near else "")
    owner = locate(part.owner) if part.owner else None
    if NO_ARGUMENT.match(part.text) and isinstance(owner, type):
        return f"{part.text} ({owner.__name__} takes {', '.join(inspect.signature(owner).parameters)})"
    return part.text


def _type_name(typehint: str) -> str:
    """Return a name of a type for a message.

    Args:
        typehint: the type as printed by the parser.
    """
    if "Literal[" in typehint:
        return "one of " + typehint.split("[", 1)[1].rstrip("]")
    name = typehint.removeprefix("<class '").removesuffix("'>").rsplit(".", 1)[-1]
    return EXAMPLES.get(name, name)


def _given(message: str) -> str:
    values = [found[1].strip("'\"") for line in message.splitlines() if (found := VALUE.search(line.strip()))]
    return f", got {values[0]}" if values and len(values[0]) <= 80 else ""


def _class_names() -> list[str]:
    """Return the names of the classes that are likely in a configuration."""
    rooms = [room for name, room in sys.modules.items() if name.startswith(PLACES)]
    return sorted({name for room in rooms for name in getattr(room, "__all__", ())})


class Change(NamedTuple):
    """A class that replaces another.

    Args:
        before: path of the class in an earlier configuration or flag.
        after: path of the class that replaces it.
    """

    before: str
    after: str


Carried = dict[Change, dict[str, Any]]


@contextmanager
def noting_carried_over() -> Iterator[Carried]:
    """Record, while a command line is parsed, which arguments a class keeps from the class it replaces.

    The parser silently keeps all arguments that the new class accepts too. Nothing is recorded with a version of
    jsonargparse that lacks the function, which is private.
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
    """Warn of arguments in a configuration that come from a replaced class and differ from the new one's defaults.

    Args:
        noted: result of :func:`noting_carried_over`.
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
            f"{new} replaces {old} and keeps its arguments {values}, which differ from the defaults of {new}: "
            "set those that should have other values, as flags or in a configuration"
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
