"""The messages that the pages quote are those of the package, and the names that a run logs are explained."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from lightning_condkd.callbacks.run_summary import TITLES
from lightning_condkd.cli import main
from tests.conftest import ROOT
from tests.helpers.messages import texts
from tests.helpers.pages import blocks

QUOTED = [block.code.strip() for block in blocks(ROOT / "docs" / "faults.md", "text")]
CURVES = (ROOT / "docs" / "curves.md").read_text()
SHORT = ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def is_shown(message: str) -> bool:
    """Whether one text of the package has all fixed parts of a message, in this order."""
    parts = [part.strip() for part in message.split("...") if part.strip(" .")]
    found = re.compile(".*".join(re.escape(part) for part in parts), flags=re.DOTALL)
    return any(found.search(text) for text in texts())


@pytest.mark.parametrize("message", QUOTED, ids=lambda message: message[:50])
def test_a_quoted_message_is_one_of_the_package(message: str) -> None:
    assert is_shown(message)


@pytest.mark.parametrize("message", ["the teacher has ... wings", "got ...: check ... twice"])
def test_another_message_is_not(message: str) -> None:
    assert not is_shown(message)


def test_the_page_has_messages() -> None:
    assert len(QUOTED) >= 30


def test_every_name_that_a_quickstart_run_logs_is_explained(tmp_path: Path) -> None:
    short = [*SHORT, f"--trainer.default_root_dir={tmp_path}", "--trainer.callbacks=[]"]
    steps = ["--model.init_args.inversion.init_args.cadence.distill_steps=2"]
    main(["fit", f"--config={ROOT / 'configs' / 'quickstart.yaml'}", *short, *steps])
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        names = set(next(csv.reader(file))) - {"round"}
    assert len(names) >= 15
    assert [name for name in sorted(names) if f"`{name}`" not in CURVES] == []


@pytest.mark.parametrize("name", [*TITLES, "seconds", "seed", "rounds", "epochs"])
def test_every_field_of_a_summary_is_explained(name: str) -> None:
    assert f"`{name}`" in CURVES
