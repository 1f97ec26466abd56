"""Every condensation method learns on two ranks what it learns on one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed import condensation_jobs as jobs
from tests.distributed.conftest import Launch, largest_difference

pytestmark = pytest.mark.ddp
METHODS = ("DM", "DM, DREAM, FYI", "DC", "DSA", "MTT")


@pytest.fixture(scope="module")
def experts(launch: Launch) -> Path:
    folder = launch.folder / "experts"
    launch(jobs.train_experts, folder=folder)
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_learn_what_one_learns(name: str, launch: Launch, experts: Path) -> None:
    runs = [
        launch(jobs.condense, world_size=n, name=name, folder=launch.folder / f"{name} {n}", experts=experts)
        for n in (1, 2)
    ]
    (one,), two = runs
    assert largest_difference(one, two[0]) < 1e-9
    assert largest_difference(two[0], two[1]) == 0
    assert bool((one["moved"].abs().amax((1, 2, 3)) > 1e-4).all())
