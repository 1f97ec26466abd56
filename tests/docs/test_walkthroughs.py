"""The commands of the pages that go through a whole task run one after another, each for a moment."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from lightning_condkd.assets import SCHEME
from lightning_condkd.assets.recipes import recipe_path
from lightning_condkd.cli import main
from lightning_condkd.models import CifarResNet, DigitsNet
from tests.conftest import ROOT
from tests.helpers.pages import blocks, commands, write_files

CADENCE = "--model.init_args.inversion.init_args.cadence"
SHORT: dict[str, list[str]] = {
    "Classification": [],
    "Condensation": ["--model.init_args.steps_per_epoch=2"],
    "CondKD": [f"{CADENCE}.synthesis_steps=2", f"{CADENCE}.distill_steps=2"],
}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
EXTEND = [page for page in sorted((ROOT / "docs" / "extend").glob("*.md")) if commands(page)]
CLASSES = {"Größe 3": (16, 5), "0x": (12, 4), "my class": (10, 3)}


def shortened(line: list[str], epochs: int) -> list[str]:
    """A command that takes a moment: few epochs and steps, or one network of one epoch."""
    command, *given = line
    if command == "evaluate":
        return [*line, "--epochs=1", "--runs=2"]
    if command not in ("fit", "test", "predict"):
        return line
    if command != "fit":
        return [*line, *QUIET]
    small = [] if "--trainer.fast_dev_run" in line else [f"--trainer.max_epochs={epochs}"]
    return [*line, *QUIET, *small, *short_steps(given)]


def short_steps(given: list[str]) -> list[str]:
    """Flags for few steps, by the module that the configurations of a command name; none for a method of one's own."""
    paths = [path for flag, path in pairwise(given) if flag == "--config"]
    files = [recipe_path(path) if path.startswith(SCHEME) else Path(path) for path in paths]
    models = [yaml.safe_load(file.read_text())["model"] for file in files]
    modules = [model["class_path"].rsplit(".", 1)[-1] for model in models if "class_path" in model]
    methods = [model["init_args"]["inversion"]["class_path"] for model in models if "inversion" in model["init_args"]]
    return [] if any(name.startswith("my_") for name in methods) else SHORT[modules[0]]


def run_all(page: Path) -> None:
    """Run the commands of a page in the working folder; a resumed run is an epoch longer."""
    for line in commands(page):
        main(shortened(line, epochs=3 if "--ckpt_path" in line else 2))


def draw_folder(root: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, counts in CLASSES.items():
        for part, count in zip(("train", "test"), counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(256, (32, 40, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(root / part / name / f"{number}.png")


@pytest.mark.docs
def test_get_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "get-started.md"
    write_files(page, tmp_path)
    run_all(page)
    DigitsNet(width=16).load_state_dict(load_file("student.safetensors"))
    with open("digits.csv") as file:
        assert len(list(csv.reader(file))) == 501


@pytest.mark.docs
def test_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    page = ROOT / "docs" / "own-data.md"
    write_files(page, tmp_path)
    draw_folder(tmp_path / "animals")
    *before, own_network = commands(page)
    for line in before:
        main(shortened(line, epochs=3 if "--ckpt_path" in line else 2))
    with open("animals.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(held_out for _, held_out in CLASSES.values())
    assert {row["class"] for row in rows} <= set(CLASSES)
    CifarResNet(8, num_classes=3).load_state_dict(load_file("student.safetensors"))
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        if block.name is None:
            exec(block.code, names)
    main([*own_network, *QUIET])


@pytest.mark.docs
@pytest.mark.parametrize("page", EXTEND, ids=lambda page: page.stem)
def test_own_parts_run_from_the_command_line(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_files(page, tmp_path)
    run_all(page)
