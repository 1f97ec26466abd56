"""The generator that a method makes for a task, and whether its teacher has BatchNorm statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from lightning_condkd.models.checks import check_generator
from lightning_condkd.randomness import seeded_initialization
from lightning_condkd.types import TaskSpec


def check_bn(bn_weight: float, spec: TaskSpec) -> None:
    """Check that the teacher has the BatchNorm layers that a weighted term needs.

    Args:
        bn_weight: weight of the term.
        spec: shapes of the task.

    Raises:
        ValueError: if the weight is not 0 and the teacher has none.
    """
    if bn_weight and not spec.bn_channels:
        raise ValueError(
            f"bn_weight is {bn_weight}, but the teacher has no BatchNorm layer with running statistics: "
            "set bn_weight to 0 (the method then runs without its BN term) or use a teacher with BatchNorm"
        )


def make_generator(
    given: nn.Module | None, default: Callable[[], nn.Module], latent_size: int, spec: TaskSpec, source: torch.Generator
) -> nn.Module:
    """Copy a given generator, or make the method's own, and check that it fits the task.

    Args:
        given: the user's network.
        default: makes the method's own.
        latent_size: length of a latent.
        spec: shapes of the task.
        source: of the initial values.
    """
    with seeded_initialization(source):
        generator = default() if given is None else copy.deepcopy(given)
    check_generator(generator, latent_size, spec.image_shape)
    return generator
