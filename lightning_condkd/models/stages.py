"""Stages of a classifier: the groups of layers whose outputs are compared between two networks."""

from __future__ import annotations

from torch import nn


def stage_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of a network's stages in the order of registration: parts with two convolutions or more.

    They are ``layer1``, ``layer2`` ... of residual networks, ``block1`` ... of wide ones, ``features`` of networks that
    are one sequence. A module that only wraps another one is looked into.

    Args:
        network: a classifier.

    Returns:
        Names of modules; none if the network has no such part.

    Example:
        >>> from lightning_condkd.models import CifarResNet, DigitsNet, WideResNet
        >>> stage_names(CifarResNet(8)), stage_names(WideResNet(16, 1)), stage_names(nn.Sequential(DigitsNet()))
        (('layer1', 'layer2', 'layer3'), ('block1', 'block2', 'block3'), ('0.features',))
    """
    found = [(name, child) for name, child in network.named_children() if _convolutions(child) > 1]
    if len(found) != 1 or isinstance(found[0][1], nn.Sequential):
        return tuple(name for name, _ in found)
    name, only = found[0]
    inner = stage_names(only)
    return tuple(f"{name}.{one}" for one in inner) or (name,)


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.Conv2d) for layer in module.modules())
