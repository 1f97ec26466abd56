"""Terms of PRE-DFKD, number by number: its released code as `reference/condkd.md` section 5 describes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.reference.kd import softmax

ZERO = torch.zeros((), dtype=torch.float64)


def own_class(logits: Tensor) -> Tensor:
    """Cross entropy to the class of the largest logit, batch mean."""
    return sum((-torch.log(torch.stack(softmax(row)).max()) for row in logits), ZERO) / len(logits)


def balance(logits: Tensor, base: float = math.e) -> Tensor:
    """sum_c pbar_c log pbar_c with the batch mean pbar of the predictions."""
    predictions = [softmax(row) for row in logits]
    total = ZERO
    for column in zip(*predictions, strict=True):
        mean = sum(column, ZERO) / len(predictions)
        total = total + mean * torch.log(mean) / math.log(base)
    return total


def activation(embedding: Tensor) -> Tensor:
    values = [abs(value) for row in embedding for value in row]
    return -sum(values, ZERO) / len(values)


def competition(teacher: Tensor, student: Tensor) -> Tensor:
    """1 - clamp(JS, 0, 1), T = 3, probabilities in [0.01, 0.99], divided by the number of all elements."""
    total, count = ZERO, 0
    for t, s in zip(teacher, student, strict=True):
        for p, q in zip(softmax(t, 3.0), softmax(s, 3.0), strict=True):
            p_, q_, m = (torch.clamp(x, 0.01, 0.99) for x in (p, q, (p + q) / 2))
            total = total + 0.5 * m * (torch.log(m) - torch.log(p_)) + 0.5 * m * (torch.log(m) - torch.log(q_))
            count += 1
    return 1 - torch.clamp(total / count, 0, 1)


def image_l1(images: Tensor, targets: Tensor, std: list[float]) -> Tensor:
    total = ZERO
    for image, target in zip(images, targets, strict=True):
        for channel, (plane, other) in enumerate(zip(image, target, strict=True)):
            for a, b in zip(plane.flatten(), other.flatten(), strict=True):
                total = total + abs(a / std[channel] - b / std[channel])
    return total / images.numel()


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """-0.5 * sum_j (1 + log s_j^2 - m_j^2 - s_j^2), batch mean."""
    total = ZERO
    for means, logarithms in zip(mean, log_variance, strict=True):
        for m, v in zip(means, logarithms, strict=True):
            total = total - 0.5 * (1 + v - m**2 - torch.exp(v))
    return total / len(mean)


def latent_variance_distance(latents: Tensor) -> Tensor:
    """MSE between the unbiased variance over the batch and 1."""
    total = ZERO
    for column in latents.T:
        mean = sum(column, ZERO) / len(column)
        variance = sum(((value - mean) ** 2 for value in column), ZERO) / (len(column) - 1)
        total = total + (variance - 1) ** 2
    return total / latents.shape[1]


def latent_mean_distance(latents: Tensor) -> Tensor:
    return sum(((sum(column, ZERO) / len(column)) ** 2 for column in latents.T), ZERO) / latents.shape[1]


def latent_objective(latents: Tensor, logits: Tensor, base: float = math.e) -> Tensor:
    moments = latent_variance_distance(latents) + latent_mean_distance(latents)
    return own_class(logits) + 5 * balance(logits, base) + moments
