"""The game on the plane: condensed and synthetic points share their marginal distribution, the classes permuted.

A discriminator that is blind to classes has nothing to correct; a conditional one must carry every class home.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lightning_condkd.alignment import (
    ACGANDiscriminator,
    Discriminator,
    FeatureAlignment,
    ProjectionDiscriminator,
    UnconditionalDiscriminator,
)
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.types import TaskSpec

CLASSES, POINTS = 3, 40


class Result(NamedTuple):
    remaining: float
    spread: float


def _class_distance(synthetic: Tensor, condensed: Tensor) -> float:
    return (synthetic.mean(1) - condensed.mean(1)).norm(dim=1).mean().item()


def _play(
    discriminator: Discriminator, seed: int, *, radius: float, deviation: float, steps: int, rate: float
) -> Result:
    """Return the share of the class-wise distance of means left at the end, and the deviation within classes."""
    generator = seeded_generator(seed, "toy")
    angles = 2 * math.pi * torch.arange(CLASSES) / CLASSES
    centers = radius * torch.stack([angles.cos(), angles.sin()], 1)[:, None]
    condensed, noise = deviation * torch.randn(2, CLASSES, POINTS, 2, generator=generator)
    condensed = centers + condensed
    synthetic = (centers.roll(1, dims=0) + noise).requires_grad_()
    labels = torch.arange(CLASSES).repeat_interleave(POINTS)
    alignment = FeatureAlignment(discriminator, learning_rate=5e-3)
    alignment.build(TaskSpec((1, 1, 1), CLASSES, embedding_size=2), generator)
    discriminating, generating = alignment.optimizer(), torch.optim.Adam([synthetic], lr=rate)
    before = _class_distance(synthetic.detach(), condensed)
    path = []
    for _ in range(steps):
        discriminating.zero_grad()
        alignment.discriminator_loss(condensed.flatten(0, 1), synthetic.flatten(0, 1), labels).total().backward()
        discriminating.step()
        generating.zero_grad()
        alignment.generator_loss(synthetic.flatten(0, 1), labels).total().backward()
        generating.step()
        path.append(synthetic.detach().clone())
    # The game circles around its equilibrium: the mean of the last third is what it settles on.
    settled = torch.stack(path[-steps // 3 :]).mean(0)
    return Result(_class_distance(settled, condensed) / before, path[-1].std(1).mean().item())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [ACGANDiscriminator, ProjectionDiscriminator, UnconditionalDiscriminator])
def test_conditional_discriminators_align_within_classes_and_the_unconditional_one_does_not(
    kind: type[Discriminator], seed: int
) -> None:
    remaining = _play(kind((64,)), seed, radius=2.0, deviation=0.5, steps=150, rate=0.05).remaining
    assert (remaining < 0.4) is (kind is not UnconditionalDiscriminator)


def test_where_classes_overlap_projection_keeps_their_spread_and_acgan_moves_to_where_its_class_head_is_sure() -> None:
    overlap = {"radius": 1.0, "deviation": 1.0, "steps": 200, "rate": 0.03}
    projection = _play(ProjectionDiscriminator((32,)), 0, **overlap)
    acgan = _play(ACGANDiscriminator((32,)), 0, **overlap)
    assert projection.remaining < 0.35
    assert projection.spread > 0.55
    assert acgan.remaining > 0.5
    assert acgan.spread < 0.4
