"""NAYER with every kind of class vectors, and noise under batch statistics, on two ranks as on one."""

from __future__ import annotations

import pytest

from tests.distributed import method_jobs
from tests.distributed.conftest import Launch, largest_difference
from tests.helpers import contract

pytestmark = pytest.mark.ddp
CASES = [name for name in contract.cases() if name.startswith(("NAYER", "BatchStatisticsNoise"))]


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one(name: str, launch: Launch) -> None:
    """A rank may have no row of the last chunk: 14 images of 3 classes."""
    runs = (
        launch(method_jobs.fit_method, world_size=n, name=name, folder=launch.folder / f"{n} {name}") for n in (1, 2)
    )
    (one,), (first, second) = runs
    for part in ("module", "optimizers"):
        assert largest_difference(one[part], first[part]) < 1e-9, part
        assert largest_difference(first[part], second[part]) == 0, part
    assert largest_difference(one["bank"], first["bank"]) <= 1
    assert one["metrics"].keys() == first["metrics"].keys()
