"""The helpers of ``distributed.py`` on two ranks and on one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd.distributed import gather_rows, mean_over_ranks, rank, sync_buffers, world_size
from tests.distributed.conftest import Launch


def rank_helpers() -> dict[str, Tensor]:
    """Each helper on this rank's share of known numbers."""
    everything = torch.arange(24.0).view(4, 3, 2).transpose(1, 2).requires_grad_()  # not contiguous
    share, layer = everything[rank() :: world_size()], torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        layer.running_mean = torch.tensor([1.0, 5.0]) + rank()
        layer.num_batches_tracked.fill_(7 + rank())
        layer.weight.fill_(rank())
    own = torch.tensor([2.0, 4.0], requires_grad=True) * (1 + rank())
    results = {
        "rank": torch.tensor(rank()),
        "world_size": torch.tensor(world_size()),
        "rows": gather_rows(share),
        "labels": gather_rows(torch.arange(4)[rank() :: world_size()]),
        "mean": mean_over_ranks(own),
        "own": own.detach(),
    }
    gradients = any(value.requires_grad for value in results.values())
    sync_buffers([layer])
    return results | {
        "gradients": torch.tensor(gradients),
        "everything": everything.detach(),
        **{f"layer.{name}": value.detach() for name, value in layer.state_dict().items()},
    }


@pytest.fixture(scope="module")
def two(launch: Launch) -> list[dict[str, Any]]:
    return launch(rank_helpers, world_size=2)


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
    for number, result in enumerate(two):
        assert result["layer.running_mean"].tolist() == [1.5, 5.5]
        assert result["layer.running_var"].tolist() == [1.0, 1.0]
        assert int(result["layer.num_batches_tracked"]) == 7
        assert result["layer.weight"].tolist() == [number, number]  # parameters are not its business


def test_on_one_process_they_do_nothing() -> None:
    result = rank_helpers()
    assert (int(result["rank"]), int(result["world_size"])) == (0, 1)
    assert torch.equal(result["rows"], result["everything"])
    assert result["mean"].tolist() == [2.0, 4.0]
    assert not result["gradients"]
    assert result["layer.running_mean"].tolist() == [1.0, 5.0]
