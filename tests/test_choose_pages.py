"""The pages that help to choose: their YAML can be laid over a task, their commands parse, every name is listed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lightning_condkd import alignment
from lightning_condkd.cli import CondKDCLI
from lightning_condkd.commands.methods import listed_methods
from tests.conftest import ROOT
from tests.helpers import losses

PAGES = sorted((ROOT / "docs").glob("choose-*.md"))
BLOCK = re.compile(r"^```(yaml|bash)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
BLOCKS = [(page.stem, kind, text) for page in PAGES for kind, text in BLOCK.findall(page.read_text())]
YAML = [(page, text) for page, kind, text in BLOCKS if kind == "yaml"]
COMMANDS = [line for _, kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        CondKDCLI([*arguments, "--print_config"])
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize(("page", "text"), YAML)
def test_yaml_is_laid_over_the_quickstart(
    page: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "part.yaml").write_text(text)
    config = printed(["fit", "--config=configs/quickstart.yaml", f"--config={tmp_path / 'part.yaml'}"], capsys)
    named = re.findall(r"class_path: (\w+)", text)
    assert named
    assert [name for name in named if name not in config] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command)
    assert program == "lightning-condkd"
    assert "class_path" in printed(arguments, capsys)


def test_flags_of_the_ways_parse(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "choose-method.md").read_text()
    flags = re.findall(r"`(--model[^`]*)`", page)
    assert len(flags) == 3
    for given in flags:
        assert "class_path: lightning_condkd.CondKD" in printed(
            ["fit", "--config", "configs/quickstart.yaml", *shlex.split(given)], capsys
        )


def test_there_is_something_to_parse() -> None:
    assert {page for page, _ in YAML} == {"choose-alignment", "choose-loss", "choose-method"}
    assert len(COMMANDS) == 2


@pytest.mark.parametrize("page", ["choose-method", "choose-method-cards"])
def test_every_method_is_listed(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert [method.__name__ for method in listed_methods() if method.__name__ not in text] == []


def test_every_loss_is_listed() -> None:
    text = (ROOT / "docs" / "choose-loss.md").read_text()
    assert [name for name in losses.names() if f"`{name}`" not in text] == []


def test_every_alignment_is_listed() -> None:
    bases = {"Alignment", "Discriminator", "DiscriminatorOutput", "MomentDistance"}
    text = (ROOT / "docs" / "choose-alignment.md").read_text()
    assert [name for name in set(alignment.__all__) - bases if f"`{name}`" not in text] == []
