"""A scalar that carries gradients which were computed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def with_gradients(value: Tensor, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return a scalar whose value and whose gradients are given.

    It lets a loss that was differentiated part by part, to bound its memory, go through the usual ``backward``.

    Args:
        value: the scalar.
        tensors: what it depends on; they require gradients.
        gradients: its gradient with respect to each.

    Example:
        >>> pixels = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> loss = with_gradients(torch.tensor(5.0), [pixels], [torch.tensor([3.0, 4.0])])
        >>> loss.backward()
        >>> loss.item(), pixels.grad
        (5.0, tensor([3., 4.]))
    """
    zeros = [((t - t.detach()) * g.detach()).sum() for t, g in zip(tensors, gradients, strict=True)]
    return value.detach() + torch.stack(zeros).sum()
