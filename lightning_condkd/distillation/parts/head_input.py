"""Check that a map is the one that a network's final layer reads."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_condkd.precision import at_least_float32

_TOLERANCE = 0.1  # of the length; half precision differs by less, another map by more


@torch.no_grad()
def check_read(loss: str, name: str, found: Tensor, expected: Tensor) -> None:
    """Check that values computed from a map are those of the network, up to a factor and where dropout left them.

    Args:
        loss: name of the loss in the message.
        name: the module whose output is the map.
        found: values computed from the map, ``(N, D)``.
        expected: the network's, the same shape.

    Raises:
        ValueError: if they are others.

    Example:
        >>> check_read("CATKD", "layer3", torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 0.0]]))
    """
    expected = at_least_float32(expected)
    found = torch.where(expected == 0, 0, at_least_float32(found))
    scale = (found * expected).sum() / found.square().sum().clamp(min=torch.finfo(found.dtype).tiny)
    if not (expected - scale * found).norm() <= _TOLERANCE * expected.norm():
        raise ValueError(
            f"{loss}: expected the last map before the final layer, whose mean over space (or whose values) that layer "
            f"reads, {name} is another: name the last stage, in WideResNet its 'bn1', in SmallImageVGG 'block4'. ReLU "
            "is applied to it, so a network whose last activation is no ReLU does not fit"
        )
