"""The helpers of ``distributed.py`` on two ranks and on one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.distributed import jobs
from tests.distributed.conftest import Launch


@pytest.fixture(scope="module")
def two(launch: Launch) -> list[dict[str, Any]]:
    return launch(jobs.rank_helpers, world_size=2)


@pytest.mark.ddp
def test_rank_and_world_size(two: list[dict[str, Any]]) -> None:
    assert [(int(r["rank"]), int(r["world_size"])) for r in two] == [(0, 2), (1, 2)]


@pytest.mark.ddp
def test_gather_rows_puts_interleaved_rows_into_global_order(two: list[dict[str, Any]]) -> None:
    for result in two:
        assert torch.equal(result["rows"], result["everything"])
        assert result["labels"].tolist() == [0, 1, 2, 3]


@pytest.mark.ddp
def test_mean_over_ranks_leaves_its_argument_alone(two: list[dict[str, Any]]) -> None:
    assert [r["mean"].tolist() for r in two] == [[3.0, 6.0], [3.0, 6.0]]
    assert [r["own"].tolist() for r in two] == [[2.0, 4.0], [4.0, 8.0]]


@pytest.mark.ddp
def test_nothing_carries_a_gradient(two: list[dict[str, Any]]) -> None:
    assert not any(r["gradients"] for r in two)


@pytest.mark.ddp
def test_sync_buffers_averages_what_is_fractional_and_copies_counters(two: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(two):
        assert result["layer.running_mean"].tolist() == [1.5, 5.5]
        assert result["layer.running_var"].tolist() == [1.0, 1.0]
        assert int(result["layer.num_batches_tracked"]) == 7
        assert result["layer.weight"].tolist() == [rank, rank]  # parameters are not its business


def test_on_one_process_they_do_nothing() -> None:
    result = jobs.rank_helpers()
    assert (int(result["rank"]), int(result["world_size"])) == (0, 1)
    assert torch.equal(result["rows"], result["everything"])
    assert result["mean"].tolist() == [2.0, 4.0]
    assert not result["gradients"]
    assert result["layer.running_mean"].tolist() == [1.0, 5.0]
