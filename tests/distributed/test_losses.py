"""Distillation losses on two ranks: equal ranks, and the run of one process where no statistics of a batch are used."""

from __future__ import annotations

import pytest

from tests.distributed import loss_jobs
from tests.distributed.conftest import Launch, largest_difference

pytestmark = pytest.mark.ddp
NAMES = ["CRD", "FitNet", "GenDD", "MSARC", "NormDirection", "WeightedLosses"]  # with state, draws or class means


def test_two_ranks_end_equal(launch: Launch) -> None:
    first, second = launch(loss_jobs.fit_each, world_size=2, timeout=180, names=NAMES, folder=launch.folder / "each")
    assert {name: largest_difference(first[name], second[name]) for name in NAMES} == dict.fromkeys(NAMES, 0.0)


def test_two_ranks_are_one_process(launch: Launch) -> None:
    ends = [launch(loss_jobs.fit_rowwise, world_size=n, timeout=180, folder=launch.folder / f"r{n}")[0] for n in (1, 2)]
    differences = {name: largest_difference(ends[0][name], ends[1][name]) for name in ends[0]}
    assert len(differences) == len(loss_jobs.ROWWISE) + 2
    assert max(differences.values()) < 1e-9, differences
