"""Mixtures with partners from the other rank."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.augment import RandomMixing
from lightning_condkd.distributed import rank, world_size
from lightning_condkd.randomness import Draw
from tests.distributed.conftest import Launch

STEPS = 4


def mixtures() -> dict[str, Tensor]:
    """This rank's mixtures and labels of a few steps."""
    images, labels = torch.rand(6, 2, 5, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    found = []
    for step in range(STEPS):
        draw = Draw(0, step, rank(), world_size())
        mixed = RandomMixing().mix(images[draw.rows], draw, "mixing")
        found.append((mixed, RandomMixing().mix_labels(labels[draw.rows], 6, (5, 8), draw, "mixing")))
    return {"images": torch.stack([mixed for mixed, _ in found]), "labels": torch.stack([soft for _, soft in found])}


@pytest.mark.ddp
def test_two_ranks_make_the_mixtures_of_one(launch: Launch) -> None:
    one, two = mixtures(), launch(mixtures, world_size=2)
    for name, whole in one.items():
        for number, own in enumerate(two):
            assert torch.equal(own[name], whole[:, number::2])
    shares = [RandomMixing().sample(6, Draw(0, step).generator("mixing"))["choice"][0].item() for step in range(STEPS)]
    assert set(shares) == {0, 1}  # both mixup and CutMix were among them
