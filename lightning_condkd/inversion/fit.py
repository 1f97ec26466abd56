"""What must fit a task when a method is built for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_condkd.randomness import seeded_initialisation
from lightning_condkd.types import Spec


def check_bn(bn_weight: float, spec: Spec) -> None:
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
    given: nn.Module | None, default: Callable[[], nn.Module], latent_size: int, spec: Spec, source: torch.Generator
) -> nn.Module:
    """Copy a given generator, or make the method's own, and check that it fits the task.

    Args:
        given: the user's network.
        default: makes the method's own.
        latent_size: length of a latent.
        spec: shapes of the task.
        source: of the initial values.
    """
    with seeded_initialisation(source):
        generator = default() if given is None else copy.deepcopy(given)
    check_generator(generator, latent_size, spec.image_shape)
    return generator


@torch.no_grad()
def check_generator(generator: nn.Module, latent_size: int, image_shape: tuple[int, int, int]) -> None:
    """Check that a generator reads the latents and makes images of the task.

    Args:
        generator: the network; a copy of it is run.
        latent_size: length of a latent.
        image_shape: ``(C, H, W)`` in pixels.

    Raises:
        ValueError: if it does not.
    """
    problem = f"the generator cannot read latents of latent_size={latent_size}: set latent_size to its own"
    with _read_by(generator, problem, (latent_size,)) as images:
        shape = tuple(images.shape[1:])
    if shape != image_shape:
        raise ValueError(
            f"expected a generator of images of shape {image_shape}, got {shape}: build it for the condensed images"
        )


@torch.no_grad()
def check_encoder(encoder: nn.Module, latent_size: int, image_shape: tuple[int, int, int]) -> None:
    """Check that an encoder reads images of the task and writes latents.

    Args:
        encoder: the network; a copy of it is run.
        latent_size: length of a latent.
        image_shape: ``(C, H, W)`` in pixels.

    Raises:
        ValueError: if it does not.
    """
    problem = f"the encoder cannot read images of shape {image_shape} as mean and log variance: build it for the "
    with _read_by(encoder, f"{problem}condensed images", image_shape) as moments:
        mean, log_variance = moments
    if not mean.shape == log_variance.shape == (2, latent_size):
        raise ValueError(
            f"expected an encoder to mean and log variance of length latent_size={latent_size}, got "
            f"{tuple(mean.shape)} and {tuple(log_variance.shape)}: set latent_size to its own"
        )


@contextmanager
def _read_by(network: nn.Module, problem: str, shape: tuple[int, ...]) -> Iterator[Any]:
    """Give what a copy of a network makes of two zero inputs; if that fails, name the problem and what it said."""
    inputs = torch.zeros(2, *shape).to(next(network.parameters(), torch.empty(0)))
    try:
        yield copy.deepcopy(network).eval()(inputs)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{problem}. {type(network).__name__} said: {error}") from error
