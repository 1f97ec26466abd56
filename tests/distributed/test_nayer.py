"""NAYER on two ranks equals NAYER on one, with every kind of class vectors."""

from __future__ import annotations

import pytest

from tests.distributed import nayer_jobs
from tests.distributed.conftest import Launch, largest_difference
from tests.helpers import contract

pytestmark = pytest.mark.ddp


@pytest.mark.parametrize("name", [name for name in contract.cases() if name.startswith("NAYER")])
def test_two_ranks_equal_one(name: str, launch: Launch) -> None:
    """A rank may have no row of the last chunk: 14 images of 3 classes."""
    runs = (launch(nayer_jobs.fit_nayer, world_size=n, name=name, folder=launch.folder / f"{n} {name}") for n in (1, 2))
    (one,), (first, second) = runs
    for part in ("module", "optimizers"):
        assert largest_difference(one[part], first[part]) < 1e-9, part
        assert largest_difference(first[part], second[part]) == 0, part
    assert largest_difference(one["bank"], first["bank"]) <= 1
    assert one["metrics"].keys() == first["metrics"].keys()
