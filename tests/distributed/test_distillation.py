"""Distillation on two ranks: equal ranks, the run of one process, and the same end after a resume."""

from __future__ import annotations

import pytest

from tests.distributed import distillation_jobs as jobs
from tests.distributed.conftest import Launch, largest_difference

pytestmark = pytest.mark.ddp


def test_two_ranks_are_one_process(launch: Launch) -> None:
    """Class means, rows of the data and draws of the step are those of the whole batch."""
    (alone,), (first, second) = (
        launch(jobs.fit_rowwise, world_size=n, timeout=180, folder=launch.folder / f"rows{n}") for n in (1, 2)
    )
    for name in jobs.ROWWISE:
        assert largest_difference(first[name], second[name]) == 0
        assert largest_difference(alone[name], first[name]) < 1e-9, name


def test_two_ranks_are_equal_and_resume_to_the_bit(launch: Launch) -> None:
    first, second = launch(jobs.fit_and_resume, world_size=2, timeout=180, folder=launch.folder / "resumed")
    assert largest_difference(first["whole"], second["whole"]) == 0
    assert largest_difference(first["whole"], first["rest"]) == 0
    assert largest_difference(first["rest"], second["rest"]) == 0
