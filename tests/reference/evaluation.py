"""Training and judging of one network as the public code of DC and DSA does it, written out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """``target``: one class, or one probability for each class."""
    log_total = logits.exp().sum().log()
    if target.dim() == 0:
        return log_total - logits[int(target)]
    return sum((-target[k] * (logits[k] - log_total) for k in range(len(logits))), torch.zeros(()))


def train(network: nn.Module, images: Tensor, targets: Tensor, epochs: int, drop_after: int, rate: float) -> None:
    """Full-batch SGD, momentum 0.9, weight decay 0.0005; after ``drop_after`` epochs a tenth of the rate, no memory."""
    weights = list(network.parameters())
    velocity = [torch.zeros_like(w) for w in weights]
    for epoch in range(epochs):
        if epoch == drop_after:
            rate, velocity = rate / 10, [torch.zeros_like(w) for w in weights]
        outputs = network(images).logits
        losses = [cross_entropy(row, target) for row, target in zip(outputs, targets, strict=True)]
        gradients = torch.autograd.grad(sum(losses, torch.zeros(())) / len(images), weights)
        with torch.no_grad():
            for i, weight in enumerate(weights):
                velocity[i] = 0.9 * velocity[i] + gradients[i] + 0.0005 * weight
                weight -= rate * velocity[i]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    right = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        right += row.index(max(row)) == label
    return right / len(labels)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Guo et al. 2017, equation 3."""
    content: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        exponentials = [math.exp(value - max(row)) for value in row]
        confidence = max(exponentials) / sum(exponentials)
        content[min(int(confidence * bins), bins - 1)].append((confidence, row.index(max(row)) == label))
    total = 0.0
    for members in content:
        if members:
            right = sum(correct for _, correct in members) / len(members)
            sure = sum(confidence for confidence, _ in members) / len(members)
            total += len(members) / len(labels) * abs(right - sure)
    return total
