"""The argument ``--config`` of all commands, a file or a recipe of this package, and how a configuration is written."""

from __future__ import annotations

from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from lightning_condkd.assets import SCHEME
from lightning_condkd.assets.recipes import available_recipes, recipe_path, recipe_title

UNWRITABLE = "Unable to serialize instance "  # what the parser writes in place of such a value
CONFIG_HELP = "Configuration in YAML or JSON: a file, or package:NAME for a recipe; package: alone lists them."


class ConfigFile(ActionConfigFile):
    """The argument ``--config``, which also takes recipes of this package: ``package:quickstart.yaml``."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - of the base
        super().__init__(**{**kwargs, "help": CONFIG_HELP})  # type: ignore[no-untyped-call]

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:  # noqa: ANN401
        """Read the file, or list the recipes.

        Args:
            parser: the parser.
            cfg: what it has parsed so far.
            values: the given text.
            option_string: name of the argument as it was given.

        Raises:
            TypeError: if there is no such file.
        """
        try:
            path = _recipe(values) if str(values).startswith(SCHEME) else values
        except FileNotFoundError as error:
            raise TypeError(f'Parser key "{self.dest}": {error}') from error
        super().__call__(parser, cfg, path, option_string)  # type: ignore[no-untyped-call]


def _recipe(given: str) -> str:
    if given == SCHEME and (names := available_recipes()):
        wide = max(map(len, names))
        print("\n".join(f"{SCHEME}{name:{wide}}  {recipe_title(name)}" for name in names))
        raise FileNotFoundError(f"expected the name of one of these recipes after {SCHEME!r}, got none")
    return str(recipe_path(given))


def is_config_action(action: object) -> bool:
    """Return whether an argument's action is the parser's own for configuration files.

    Args:
        action: of ``add_argument``.
    """
    return action is ActionConfigFile


def dump_yaml(config: Any) -> str:  # noqa: ANN401 - any part of a configuration
    """Return a configuration as YAML that can be read again.

    A default value without a form in YAML, such as a ``functools.partial``, is left out: its class has it anyway.

    Args:
        config: the configuration in plain types.

    Example:
        >>> print(dump_yaml({"width": 8, "norm_layer": "Unable to serialize instance functools.partial(...)"}))
        width: 8
        <BLANKLINE>
    """
    return yaml.safe_dump(_writable(config), default_flow_style=False, allow_unicode=True, sort_keys=False)


def _writable(part: Any) -> Any:  # noqa: ANN401 - likewise
    if isinstance(part, dict):
        return {name: _writable(value) for name, value in part.items() if not _is_unwritable(value)}
    return [_writable(value) for value in part] if isinstance(part, list) else part


def _is_unwritable(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_is_unwritable, value))
    return isinstance(value, str) and value.startswith(UNWRITABLE)
