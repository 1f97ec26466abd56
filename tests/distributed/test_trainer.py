"""What a user gives the trainer, on two ranks: several held-out loaders, and checkpoints by time."""

from pathlib import Path

import pytest

from tests.distributed.conftest import Launch
from tests.distributed.trainer_jobs import average, drift, measure, save_by_time, save_or_not
from tests.helpers.small_runs import MODULES

pytestmark = pytest.mark.ddp


@pytest.mark.parametrize("dictionary", [False, True])
def test_every_image_counts_once_for_its_loader(launch: Launch, dictionary: bool, tmp_path: Path) -> None:
    arguments = {"folder": tmp_path, "dictionary": dictionary}
    (alone,) = launch(measure, **arguments)
    first, second = launch(measure, world_size=2, **arguments)
    assert first == second == pytest.approx(alone)
    assert {f"{stage}/student_accuracy{end}" for stage in ("val", "test") for end in ("", "/loader_1")} <= set(alone)


def test_the_clock_of_one_rank_decides(launch: Launch, tmp_path: Path) -> None:
    assert launch(save_by_time, world_size=2, folder=tmp_path) == [{"by_time.ckpt": 10}] * 2


@pytest.mark.parametrize("name", MODULES)
def test_a_checkpoint_changes_nothing_of_the_run(name: str, launch: Launch, tmp_path: Path) -> None:
    assert launch(save_or_not, world_size=2, folder=tmp_path, name=name) == [{}, {}]


def test_an_average_is_the_same_on_all_ranks_and_after_a_resume(launch: Launch, tmp_path: Path) -> None:
    (alone,) = launch(average, folder=tmp_path / "one")
    first, second = launch(average, world_size=2, folder=tmp_path / "two")
    assert first == second
    for found in (alone, first):
        assert found["whole"] == found["resumed"]


def test_buffers_of_any_name_are_the_same_on_all_ranks_after_every_step(launch: Launch, tmp_path: Path) -> None:
    assert launch(drift, world_size=2, folder=tmp_path) == [{}, {}]
