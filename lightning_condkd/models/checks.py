"""Whether classifiers, generators and encoders fit the images and classes of a task."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_condkd.models.observer import Observer


@torch.no_grad()
def check_classifier(name: str, network: Observer, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Check a network against the data by a small forward pass.

    Args:
        name: the argument that it was given as.
        network: the network, in eval mode.
        image_shape: ``(C, H, W)`` of the data in pixels.
        num_classes: number of classes K of the data.

    Raises:
        ValueError: if it has another number of classes, or cannot read such images.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> check_classifier("network", Observer(ConvNet(10)).eval(), (3, 32, 32), num_classes=10)
    """
    kind = type(network.network).__name__
    weights = next(network.parameters(), torch.empty(0))
    try:
        shape = tuple(network(torch.zeros(1, *image_shape).to(weights)).logits.shape)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"{name}: {kind} cannot read images of {image_shape} (channels, height, width); give it their size and "
            f"channels. It said: {error}"
        ) from error
    if shape != (1, num_classes):
        raise ValueError(
            f"{name}: expected {num_classes} classes as in the data, {kind} has {shape[-1]}; set its num_classes"
        )


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
    problem = f"the generator cannot read latents of latent_size={latent_size}: set generator.latent_size to its own"
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
