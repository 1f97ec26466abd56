"""Trajectory matching (arXiv 2203.11932, equation 2 and algorithm 1) and TESLA's gradient (arXiv 2211.10586, eq. 6).

The network is a softmax regression, whose gradient is written out, so that the graph holds no gradient of a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradient(parameters: Tensor, images: Tensor, labels: Sequence[int], classes: int) -> Tensor:
    """Mean over images of (probability - 1 for the right class) times the input, class by class in a row."""
    weights = parameters.reshape(classes, -1)
    total = torch.zeros_like(weights)
    for image, label in zip(images, labels, strict=True):
        scores = torch.stack([(weights[k] * image.reshape(-1)).sum() for k in range(classes)])
        probabilities = scores.exp() / scores.exp().sum()
        rows = [(probabilities[k] - float(k == label)) * image.reshape(-1) for k in range(classes)]
        total = total + torch.stack(rows)
    return (total / len(labels)).reshape(-1)


def squared(vector: Tensor) -> Tensor:
    return torch.stack([value * value for value in vector]).sum()


def matching_loss(
    images: Tensor,
    labels: Sequence[int],
    batches: Sequence[Sequence[int]],
    step_size: Tensor,
    start: Tensor,
    target: Tensor,
    classes: int,
    hold_parameters: bool = False,
) -> Tensor:
    """With ``hold_parameters`` the gradient of each step is taken at parameters that count as constants."""
    parameters, moved = start, torch.zeros_like(start)
    for batch in batches:
        at = parameters.detach() if hold_parameters else parameters
        moved = moved + gradient(at, images[list(batch)], [labels[i] for i in batch], classes)
        parameters = start - step_size * moved
    return squared(start - step_size * moved - target) / squared(start - target)
