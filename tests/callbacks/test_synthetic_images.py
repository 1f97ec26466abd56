"""Pictures of a run in TensorBoard: legible, with the names of the classes, and without empty columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_condkd.callbacks import SyntheticImages, latest_sheet, set_sheet
from lightning_condkd.cli import main
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.figures import shown_names
from lightning_condkd.formats.contents import CondensedInfo
from lightning_condkd.image_grids import labeled_grid
from lightning_condkd.types import Synthetic
from tests.conftest import ROOT
from tests.helpers import toy

ROW = 66
NAMES = ("cat", "dog", "emu")


def condensed(channels: int = 3) -> CondensedSet:
    return CondensedSet(torch.rand(5, channels, 8, 8), torch.tensor([0, 1, 1, 1, 2]), info=CondensedInfo(3, NAMES))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_set_has_a_named_row_for_each_class(channels: int) -> None:
    held = condensed(channels)
    assert torch.equal(set_sheet(held), labeled_grid(held.images, held.labels, NAMES, columns=10))
    assert set_sheet(held, max_classes=2).shape[1] == 2 * ROW + 2
    assert set_sheet(held).shape[2] - set_sheet(held, per_class=1).shape[2] == 2 * ROW


def named(one: CondensedSet) -> list[str]:
    return shown_names(one.num_classes, one.info.class_names)


def test_classes_without_names_have_numbers() -> None:
    assert named(CondensedSet(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))) == ["0", "1"]
    assert named(condensed()) == [*NAMES]


def test_the_latest_synthetic_images_are_shown() -> None:
    images, labels = torch.rand(6, 1, 8, 8), torch.tensor([1, 0, 1, 1, 5, -1])
    shown = latest_sheet(Synthetic(images, labels), NAMES, per_class=2)
    expected = labeled_grid(images[[1, 2, 3]], labels[[1, 2, 3]], NAMES, columns=2)
    assert shown is not None
    assert torch.equal(shown, expected)
    assert latest_sheet(Synthetic(images[:0], labels[:0]), NAMES, per_class=2) is None


def shown_in(folder: Path) -> dict[str, list[Any]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: events.Images(tag) for tag in events.Tags()["images"]}


def test_a_run_shows_both_kinds_of_images(tmp_path: Path) -> None:
    cadence = "--model.init_args.inversion.init_args.cadence"
    short = ["--trainer.max_epochs=7", f"{cadence}.distill_steps=2", f"{cadence}.synthesis_steps=2"]
    given = [*short, "--model.init_args.inversion.init_args.batch_size=32", "--trainer.callbacks=[]"]
    root = f"--trainer.default_root_dir={tmp_path}"
    main(["fit", f"--config={ROOT / 'configs' / 'quickstart.yaml'}", *given, root])
    shown = shown_in(tmp_path / "lightning_logs" / "version_0")
    assert {tag: len(pictures) for tag, pictures in shown.items()} == {"condensed": 1, "synthetic": 3}
    picture = shown["condensed"][0]
    assert picture.height == 10 * ROW + 2
    assert ROW + 2 < picture.width < ROW + 30  # one image per class beside its digit
    assert shown["synthetic"][-1].height == 10 * ROW + 2


def test_the_condensed_images_are_shown_again_in_a_new_run(tmp_path: Path) -> None:
    callback = SyntheticImages()
    for name in ("a", "b"):
        logger = TensorBoardLogger(str(tmp_path), name=name, version=0)
        toy.fit(toy.condkd(), max_epochs=2, callbacks=[callback], logger=logger)
        assert "condensed" in shown_in(tmp_path / name / "version_0")
