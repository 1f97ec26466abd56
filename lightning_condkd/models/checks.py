"""Checks that classifiers, generators and encoders fit the images and classes of a task."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_condkd.models.observer import Observer
from lightning_condkd.types import NetworkOutput


@torch.no_grad()
def check_classifier(
    name: str,
    network: Observer,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    embedding: bool = False,
    bn: bool = False,
    channel_means: bool | Sequence[str] = False,
) -> NetworkOutput:
    """Check a network against the data by a small forward pass in eval mode; it is in its own mode afterwards.

    Args:
        name: the argument that it was given as.
        network: the network.
        image_shape: ``(C, H, W)`` of the data in pixels.
        num_classes: number of classes K of the data.
        embedding: whether its embedding will be asked for.
        bn: whether its BatchNorm statistics will be.
        channel_means: whether, or of which modules, the channel means of inputs will be.

    Returns:
        What it makes of two black images.

    Raises:
        ValueError: if it has another number of classes, or fails on such images.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> check_classifier("network", Observer(ConvNet(10)), (3, 32, 32), num_classes=10).logits.shape
        torch.Size([2, 10])
    """
    problem = (
        f"{name}: {type(network.network).__name__} cannot read images of {image_shape} (channels, height, width); "
        "use data and networks of the same channels and resolution"
    )
    asked = {"embedding": embedding, "bn": bn, "channel_means": channel_means}
    with _read_by(network, problem, image_shape, **asked) as made:
        output: NetworkOutput = made
    if output.logits.shape[1:] != (num_classes,):
        raise ValueError(
            f"{name}: expected {num_classes} classes as in the data, {type(network.network).__name__} returns logits "
            f"of shape {tuple(output.logits.shape)}; set its num_classes"
        )
    return output


@torch.no_grad()
def output_shapes(
    name: str,
    network: Observer,
    image_shape: tuple[int, int, int],
    maps: Sequence[str] = (),
    *,
    embedding: bool = False,
) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """Return the width of a network's embedding and the shapes of inner modules' outputs, by a small forward pass.

    Args:
        name: name of the network in the message.
        network: the network; it is in its own mode afterwards.
        image_shape: ``(C, H, W)`` of the images in pixels.
        maps: names of its modules.
        embedding: whether to measure the embedding; its width is 0 otherwise.

    Raises:
        ValueError: if a module is missing, its maps have the channels last, or the network fails on such images.

    Example:
        >>> from lightning_condkd.models import DigitsNet
        >>> output_shapes("network", Observer(DigitsNet(width=8)), (1, 8, 8), ["features"], embedding=True)
        (16, ((16, 4, 4),))
    """
    if not (maps or embedding):  # also because a compiled network would run without hooks from then on
        return 0, ()
    with _read_by(
        network, f"{name} cannot read images of {image_shape}", image_shape, embedding=embedding, maps=maps
    ) as (
        _,
        found,
        inner,
        *_others,
    ):
        shapes = tuple(tuple(one.shape[1:]) for one in inner)
    _check_channels_first(name, maps, shapes, image_shape)
    return (0 if found is None else found.shape[1]), shapes


def _check_channels_first(
    name: str, maps: Sequence[str], shapes: Sequence[tuple[int, ...]], image_shape: tuple[int, int, int]
) -> None:
    """Refuse maps (H, W, C) of square images, as Swin Transformers have: their rows would be taken for channels."""
    for module, shape in zip(maps, shapes, strict=True):
        if len(shape) == 3 and image_shape[1] == image_shape[2] and shape[0] == shape[1] != shape[2]:
            raise ValueError(
                f"{name}: expected maps (C, H, W) from {module}, got {shape}, whose channels seem to be last: wrap the "
                "network, with a module that permutes them to (C, H, W), and name that one"
            )


@torch.no_grad()
def check_generator(generator: nn.Module, latent_size: int, image_shape: tuple[int, int, int]) -> None:
    """Check that a generator maps latents of the given size to images of the task.

    Args:
        generator: the network; a copy of it is run.
        latent_size: length of a latent.
        image_shape: ``(C, H, W)`` in pixels.

    Raises:
        ValueError: if it does not.
    """
    problem = f"the generator cannot read latents of latent_size={latent_size}: set generator.latent_size to its own"
    with _read_by(copy.deepcopy(generator), problem, (latent_size,)) as images:
        shape = tuple(images.shape[1:])
    if shape != image_shape:
        raise ValueError(
            f"expected a generator of images of shape {image_shape}, got {shape}: build it for condensed images"
        )


@torch.no_grad()
def check_encoder(encoder: nn.Module, latent_size: int, image_shape: tuple[int, int, int]) -> None:
    """Check that an encoder maps images of the task to mean and log variance of latents.

    Args:
        encoder: the network; a copy of it is run.
        latent_size: length of a latent.
        image_shape: ``(C, H, W)`` in pixels.

    Raises:
        ValueError: if it does not.
    """
    problem = f"the encoder cannot read images of shape {image_shape} as mean and log variance: build it for the "
    with _read_by(copy.deepcopy(encoder), f"{problem}condensed images", image_shape) as moments:
        mean, log_variance = moments
    if not mean.shape == log_variance.shape == (2, latent_size):
        raise ValueError(
            f"expected an encoder to mean and log variance of length latent_size={latent_size}, got "
            f"{tuple(mean.shape)} and {tuple(log_variance.shape)}: set latent_size to the encoder's"
        )


@contextmanager
def _read_by(network: nn.Module, problem: str, shape: tuple[int, ...], **asked: object) -> Iterator[Any]:
    """Give what a network in eval mode makes of two zero inputs; if that fails, name the problem and what it said."""
    inputs = torch.zeros(2, *shape).to(next(network.parameters(), torch.empty(0)))
    modes = {module: module.training for module in network.modules()}
    try:
        yield network.eval()(inputs, **asked)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"{problem}. {type(network).__name__} said: {error}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
