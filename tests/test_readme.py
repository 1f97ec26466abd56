"""The README's Python runs as written, and what the pages name is there."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

from lightning_condkd.assets import available_assets
from lightning_condkd.assets.recipes import available_recipes
from tests.conftest import ROOT
from tests.helpers.pages import PAGES, README, blocks, code

FOLDERS = ("benchmarks", "configs", "docs", "examples", "lightning_condkd", "tests")
FILES = [path for folder in (ROOT / name for name in FOLDERS) for path in (folder, *folder.rglob("*")) if path.exists()]
NAMES = {f"/{path.relative_to(ROOT).as_posix()}" for path in [*FILES, *ROOT.glob("*.*")]}
SOURCES = "\n".join(path.read_text() for path in (ROOT / "lightning_condkd").rglob("*.py"))
CLASSES = set(re.findall(r"^class (\w+)", SOURCES, flags=re.MULTILINE))
PATH = re.compile(
    rf"(?<![\w./-])(?:[\w./-]+\.(?:py|yaml|md)|(?:[\w-]+/)+|(?:{'|'.join(FOLDERS)})/[\w./-]*\w)(?![\w/*<-])"
)
ELSEWHERE = re.compile(  # made by a user or a run
    "data/|benchmarks/gpu/pack|docs/_build/|RUN/|runs/|lightning_logs/|animals/|(bank|checkpoints|replay)/$|(config|hparams).yaml$"
)


def missing(text: str) -> list[str]:
    """Return the paths, dotted names and classes of this package in a piece of code that are not there."""
    paths = [path for path in PATH.findall(text) if not ELSEWHERE.match(path)]
    packaged = [name for name in re.findall(r"package:([\w./-]+)", text) if name != "NAME"]
    lost = [path for path in paths if not any(name.endswith(f"/{path.strip('./')}") for name in NAMES)]
    lost += [f"package:{name}" for name in packaged if name not in (*available_assets(), *available_recipes())]
    dotted = [name for name in re.findall(r"lightning_condkd(?:\.\w+)+", text) if not resolves(name)]
    classes = re.findall(r"^[A-Z]+[a-z]\w*[A-Z]\w*$", text)
    return [*lost, *dotted, *(name for name in classes if name not in CLASSES)]


def resolves(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
    shown = {block.name for block in blocks(page, "yaml", "python", "text")}
    assert [name for text in code(page) for name in missing(text) if name not in shown] == []


@pytest.mark.parametrize(
    "text",
    [
        "python benchmarks/rows.py digits",
        "sets.py digits",
        "--config configs/digits/none.yaml",
        "quality/none/",
        "configs/none",
        "nowhere/",
        "package:none.safetensors",
        "from lightning_condkd.inversion.dm import DM",
        "lightning_condkd.models.NoNetwork",
        "NoSuchClass",
    ],
)
def test_what_is_not_there_is_found(text: str) -> None:
    assert missing(text)


def printed_accuracy(text: str, capsys: pytest.CaptureFixture[str]) -> float:
    exec(text, {})
    return float(re.findall(r"tensor\((.*)\)", capsys.readouterr().out)[-1])


def test_the_python_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a third of its rounds; the control is the same run without a synthetic image."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(README, "python")
    short = block.code.replace("max_epochs=25", "max_epochs=8, enable_progress_bar=False")
    control = short.replace(
        "inversion=inversion, alignment=FeatureAlignment()", "inversion=NoInversion(cadence=Cadence(0, 60))"
    )
    control = "from lightning_condkd.inversion import NoInversion\n" + control
    assert short != block.code
    assert printed_accuracy(short, capsys) > 0.8
    assert printed_accuracy(control, capsys) < 0.6


def test_the_readme_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 115
    assert max(line.count("|") - 1 for line in lines if line.startswith("|")) <= 3
