"""The command lines of the pages parse: every option, class and configuration that they name is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import auto_cli, capture_parser

from lightning_condkd.cli import COMMANDS, main
from lightning_condkd.entry import STAGES
from lightning_condkd.parser import ReadableParser
from tests.helpers.pages import DOCS, README, commands, write_files

MADE_BY_A_RUN = re.compile(r"--config[= ]?(RUN|runs/|lightning_logs/)|^(RUN|runs/|lightning_logs/)")
LINES = [(page, line) for page in (README, *DOCS) for line in commands(page)]


def test_the_pages_have_commands() -> None:
    assert {line[0] for _, line in LINES} >= {"fit", "test", "predict", *COMMANDS}


@pytest.mark.docs
@pytest.mark.parametrize(("page", "line"), LINES, ids=lambda value: value.stem if isinstance(value, Path) else value[0])
def test_a_command_parses(
    page: Path, line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_files(page, tmp_path)
    command, *given = line
    if {"--help", "--version"} & set(line):
        return
    if command in COMMANDS:
        parser = capture_parser(lambda: auto_cli(COMMANDS[command], parser_class=ReadableParser))
        parser.parse_args(given)
        return
    assert command in STAGES
    with pytest.raises(SystemExit) as end:
        main([command, *_with_configurations(given), "--print_config"])
    assert end.value.code == 0, capsys.readouterr().err[-500:]
    assert yaml.safe_load(capsys.readouterr().out)["model"]
    for name in [
        name for name, one in sys.modules.items() if str(getattr(one, "__file__", "")).startswith(str(tmp_path))
    ]:
        del sys.modules[name]


def _with_configurations(given: list[str]) -> list[str]:
    """The arguments, with the configuration of the quickstart for one that only a run writes."""
    return [
        "configs/quickstart.yaml" if MADE_BY_A_RUN.match(word) and word.endswith("config.yaml") else word
        for word in given
    ]
