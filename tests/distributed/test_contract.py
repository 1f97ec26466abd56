"""Every inversion method leaves two ranks equal to the bit, student steps, banks and discriminators included."""

from __future__ import annotations

import pytest

from tests.distributed import contract_jobs
from tests.distributed.conftest import Launch, largest_difference
from tests.helpers import contract

pytestmark = pytest.mark.ddp


@pytest.mark.parametrize("name", contract.cases())
def test_two_ranks_end_equal(name: str, launch: Launch) -> None:
    ranks = launch(contract_jobs.fit_method, world_size=2, name=name, folder=launch.folder / name)
    for part in ("module", "optimizers", "bank"):
        assert largest_difference(ranks[0][part], ranks[1][part]) == 0, part
    assert ranks[0]["global_step"] == 2 * contract.CADENCE.length
    assert ranks[0]["metrics"] == ranks[1]["metrics"]


@pytest.mark.parametrize("distance", ["mmd", "means", "characteristic"])
def test_moments_of_two_ranks_are_those_of_the_whole_batch(distance: str, launch: Launch) -> None:
    one = contract_jobs.fit_moments(distance, str(launch.folder / "one"))
    ranks = launch(contract_jobs.fit_moments, world_size=2, distance=distance, folder=launch.folder / "two")
    other = contract_jobs.fit_moments(distance, str(launch.folder / "other"), seed=1)
    for part in ("module", "bank"):
        assert largest_difference(ranks[0][part], ranks[1][part]) == 0, part
        assert largest_difference(ranks[0][part], one[part]) < 1e-9, part
        assert largest_difference(other[part], one[part]) > 1e-3, part


def test_two_ranks_sample_a_diffusion_model_as_one_does(launch: Launch) -> None:
    arguments = {"folder": launch.folder / "diffusion", "timeout": 180}
    (one,), two = (launch(contract_jobs.fit_diffusion, world_size=n, **arguments) for n in (1, 2))
    for part in ("module", "optimizers"):
        assert largest_difference(one[part], two[0][part]) < 1e-9, part
        assert largest_difference(two[0][part], two[1][part]) == 0, part
    assert largest_difference(one["bank"], two[0]["bank"]) <= 1  # a pixel may lie on the border between two bytes
