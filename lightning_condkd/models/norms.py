"""Normalisation layers by name, for small networks and generators."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

Norm = Literal["instance", "batch", "group", "one_group", "none"]


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """Return a normalisation layer for maps of any size.

    Args:
        kind: ``instance`` (a group for each channel), ``batch`` (keeps running statistics), ``group`` (4 groups of
            channels), ``one_group`` (over channels and pixels) or ``none``. All but the last have a scale and an
            offset for each channel.
        channels: channels of the maps.

    Raises:
        ValueError: if the kind is unknown, or the channels do not divide by the groups.

    Example:
        >>> make_norm("one_group", 8)
        GroupNorm(1, 8, ...)
    """
    match kind:
        case "instance":
            return nn.GroupNorm(channels, channels)
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(4, channels)
        case "one_group":
            return nn.GroupNorm(1, channels)
        case "none":
            return nn.Identity()
    raise ValueError(f"expected norm to be one of {', '.join(get_args(Norm))} (ConvNet: or layer), got {kind!r}")
