"""The memory of CRD is the same on every rank, and that of one process with the global batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_condkd.distillation import CRD, LossContext
from lightning_condkd.distributed import mean_over_ranks, rank, world_size
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.types import NetworkOutput
from tests.distributed.conftest import Launch, largest_difference
from tests.helpers.feature_losses import pair

SLOTS = torch.tensor([4, 1, 1, 6, 0, 7, 3, 2])
KEEP = torch.tensor([True, True, False, True, True, False, True, False])  # on two ranks three rows and two


def remember(uneven: bool) -> dict[str, Any]:
    """Two steps on this rank's share of fixed embeddings; with ``uneven`` of a part of the rows."""
    loss = pair().build(CRD(negatives=12, size=5), slots=9)
    generator, values = seeded_generator(0, "embeddings"), []
    for step in range(2):
        ours, theirs = (torch.randn(8, d, generator=generator, dtype=torch.float64) for d in (6, 8))
        keep = KEEP if uneven else torch.ones(8, dtype=torch.bool)
        rows = torch.arange(8)[rank() :: world_size()]
        rows = rows[keep[rows]]
        context = LossContext(slots=SLOTS[rows], draw=Draw(0, step, rank(), world_size()))
        student, teacher = (NetworkOutput(x[rows, :3], x[rows]) for x in (ours.requires_grad_(), theirs))
        values.append(mean_over_ranks(loss(student, teacher, SLOTS[rows] % 3, context)))
    return {"values": torch.stack(values), **loss.state_dict()}


@pytest.mark.ddp
@pytest.mark.parametrize("uneven", [False, True])
def test_two_ranks_remember_the_same_as_one(uneven: bool, launch: Launch) -> None:
    first, second = launch(remember, world_size=2, uneven=uneven)
    assert largest_difference(first, second) == 0
    alone = remember(uneven)
    parts = [name for name in alone if name.startswith("memory")] if uneven else list(alone)
    assert largest_difference({n: first[n] for n in parts}, {n: alone[n] for n in parts}) < 1e-12
