"""The pictures of the documentation: they are there, small, shown with what makes them, and their script runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from lightning_condkd.cli import main
from lightning_condkd.commands._finished_run import FinishedRun
from tests.conftest import ROOT

pytest.importorskip("matplotlib")

IMAGES, PAGE = ROOT / "docs" / "images", ROOT / "docs" / "pictures.md"
FILES = sorted(path.name for path in IMAGES.iterdir())
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "pictures.py"))


def test_every_picture_is_small_and_shown_with_a_description() -> None:
    shown = dict(re.findall(r"!\[([^\]]+)\]\(images/([^)]+)\)", PAGE.read_text()))
    assert sorted(shown.values()) == FILES
    assert all(len(description) > 20 for description in shown)
    assert all((IMAGES / name).stat().st_size < 150_000 for name in FILES)


def test_the_pipeline_names_all_stages() -> None:
    drawing = ElementTree.parse(IMAGES / "pipeline.svg").getroot()
    words = {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
    stages = {
        "teacher",
        "inversion",
        "alignment",
        "condensed set",
        "memory bank",
        "transfer set",
        "distillation",
        "student",
    }
    assert stages <= words


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    short = ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={root}"]
    cadence = [f"--{SCRIPT['METHOD']}.cadence.{name}=2" for name in ("synthesis_steps", "distill_steps")]
    main(["fit", *SCRIPT["GUIDED"], *short, *cadence])
    return root / "lightning_logs" / "version_0"


def test_the_shares_are_shares(run_folder: Path) -> None:
    assert 0 < SCRIPT["share_at_home"](FinishedRun(run_folder, "any")) < 1


def test_the_script_draws_what_is_committed(run_folder: Path) -> None:
    run = FinishedRun(run_folder, "any")
    made = SCRIPT["pictures"](dict.fromkeys(SCRIPT["RUNS"], run))
    assert sorted([*(f"{name}.png" for name in made), "pipeline.svg"]) == FILES
    for name, pixels in made.items():
        with Image.open(IMAGES / f"{name}.png") as committed:
            assert committed.size == (pixels.shape[2], pixels.shape[1])


@pytest.mark.parametrize("name", SCRIPT["RUNS"])
def test_its_runs_are_those_that_the_package_takes(name: str, tmp_path: Path) -> None:
    main(["fit", *SCRIPT["RUNS"][name], "--trainer.fast_dev_run=1", f"--trainer.default_root_dir={tmp_path}"])
