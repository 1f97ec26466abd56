"""Predictions on two ranks: each image once, in order, in one file, as on one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.distributed.conftest import Launch
from tests.distributed.prediction_jobs import predict

pytestmark = pytest.mark.ddp


def columns(file: str) -> tuple[list[list[str]], list[float]]:
    lines = [line.split(",") for line in file.splitlines()]
    return [line[:-1] for line in lines], [float(line[-1]) for line in lines[1:]]


@pytest.mark.parametrize("images", ["a loader", "a folder"])
@pytest.mark.parametrize(("rows", "batch"), [(7, 2), (2, 4)])
def test_two_ranks_write_what_one_process_does(
    images: str, rows: int, batch: int, launch: Launch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"folder": tmp_path, "rows": rows, "batch": batch}
    if images == "a folder":
        given["images"] = str(tmp_path / "images")
        (tmp_path / "images").mkdir()
        for row in range(rows):
            Image.fromarray(torch.full((8, 8), 20 * row, dtype=torch.uint8).numpy()).save(
                tmp_path / "images" / f"{row}.png"
            )
    (alone,) = launch(predict, **given)
    first, second = launch(predict, world_size=2, **given)
    (facts, probabilities), (expected, of_one) = columns(first["file"]), columns(alone["file"])
    assert facts == expected
    assert probabilities == pytest.approx(of_one, rel=1e-4)
    assert [fact[0] for fact in facts[1:]] == [str(row) for row in range(rows)]
    assert second == {"file": ""}
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["1.csv", "2.csv"]


def test_what_cannot_be_divided_is_refused_on_both_ranks(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "0.png")
    one = launch(predict, world_size=2, folder=tmp_path, images=str(tmp_path / "images"))
    assert one == [{"error": "1 images cannot be divided among 2 processes: predict on one"}] * 2
    first, second = launch(predict, world_size=2, folder=tmp_path, stream=True)
    assert first == second
    assert "on 2 processes it is not known which images a loader without a sampler gives" in first["error"]
    assert not list(tmp_path.glob("*.csv"))
