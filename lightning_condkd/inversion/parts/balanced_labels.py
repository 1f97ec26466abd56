"""Labels of a batch with equally many of every class."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_labels(count: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Return labels ``(N,)`` in the order of the classes, over and over; a rest is drawn without replacement.

    Args:
        count: number of labels N.
        num_classes: number of classes K.
        generator: source of the rest, on the CPU.

    Example:
        >>> balanced_labels(6, 3, torch.Generator())
        tensor([0, 1, 2, 0, 1, 2])
    """
    whole, rest = divmod(count, num_classes)
    others = torch.randperm(num_classes, generator=generator, device="cpu")[:rest]
    return torch.cat([torch.arange(num_classes, device="cpu").repeat(whole), others])
