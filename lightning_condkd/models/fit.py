"""Whether a classifier fits the data."""

from __future__ import annotations

import torch

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
