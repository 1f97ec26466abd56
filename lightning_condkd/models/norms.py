"""Normalisation layers by name, for small networks and generators."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["batch", "layer", "none"]


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """Return a normalisation layer for maps of any size.

    Args:
        kind: ``batch`` (keeps running statistics), ``layer`` (one group over channels and pixels) or ``none``.
        channels: channels of the maps.

    Raises:
        ValueError: if the kind is unknown.

    Example:
        >>> make_norm("layer", 8)
        GroupNorm(1, 8, ...)
    """
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "layer":
            return nn.GroupNorm(1, channels)
        case "none":
            return nn.Identity()
    raise ValueError(f"expected norm='batch', 'layer' or 'none', got {kind!r}")
