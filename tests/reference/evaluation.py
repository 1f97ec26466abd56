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


def divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Sum over classes of p log(p / q), both softened, times the squared temperature."""
    q = (logits / temperature).exp() / (logits / temperature).exp().sum()
    p = (teacher_logits / temperature).exp() / (teacher_logits / temperature).exp().sum()
    return temperature**2 * (p * (p.log() - q.log())).sum()


def distil(network: nn.Module, teacher: nn.Module, images: Tensor, epochs: int, temperature: float) -> None:
    """Full-batch AdamW as in its paper (algorithm 2), rate 0.001 by the first half of a cosine, decay 0.01."""
    weights = list(network.parameters())
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    for epoch in range(epochs):
        rate = 0.001 * 0.5 * (1 + math.cos(math.pi * epoch / epochs / 2))
        predictions = teacher(images).logits.detach()
        pairs = zip(network(images).logits, predictions, strict=True)
        total = sum((divergence(row, opinion, temperature) for row, opinion in pairs), torch.zeros(()))
        gradients = torch.autograd.grad(total / len(images), weights)
        with torch.no_grad():
            for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                corrected = first[i] / (1 - 0.9 ** (epoch + 1)), second[i] / (1 - 0.999 ** (epoch + 1))
                weight -= rate * (corrected[0] / (corrected[1].sqrt() + 1e-8) + 0.01 * weight)


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
