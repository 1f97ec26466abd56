"""Terms of DeepInversion, pixel by pixel and class by class: arXiv 1912.08795 and what its official code computes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.reference.inversion import bn_distance, class_loss
from tests.reference.kd import softmax


def differences(images: Tensor) -> list[list[Tensor]]:
    """For each of four directions, the differences of all pairs of neighbours that lie within the image."""
    count, channels, height, width = images.shape
    directions: list[list[Tensor]] = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        found = []
        for n in range(count):
            for c in range(channels):
                for i in range(height - down):
                    for j in range(max(0, -right), min(width, width - right)):
                        found.append(images[n, c, i + down, j + right] - images[n, c, i, j])
        directions.append(found)
    return directions


def total_variation(images: Tensor, form: str) -> Tensor:
    total = torch.zeros(())
    for found in differences(images):
        values = torch.stack(found)
        total = total + (torch.sqrt((values * values).sum()) if form == "l2" else values.abs().sum() / len(found))
    return total


def image_norm(images: Tensor, form: str) -> Tensor:
    squares = [sum((value * value for value in image.reshape(-1)), torch.zeros(())) for image in images]
    if form == "batch":
        return torch.sqrt(sum(squares, torch.zeros(())))
    return sum((torch.sqrt(square) for square in squares), torch.zeros(())) / len(images)


def jensen_shannon(first: Tensor, second: Tensor, temperature: float, clamp: float, reduction: str) -> Tensor:
    total = torch.zeros(())
    for a, b in zip(first, second, strict=True):
        p, q = softmax(a / temperature), softmax(b / temperature)
        for k in range(len(p)):
            limited = [value.clamp(clamp, 1 - clamp) for value in (p[k], q[k], (p[k] + q[k]) / 2)]
            mean = limited[2]
            total = total + 0.5 * mean * torch.log(mean / limited[0]) + 0.5 * mean * torch.log(mean / limited[1])
    return total / (len(first) * (first.shape[1] if reduction == "elementwise" else 1))


def total_loss(
    view: Tensor,
    teacher: Tensor,
    student: Tensor,
    labels: Tensor,
    layers: list[tuple[Tensor, Tensor, Tensor, Tensor]],
    mean: float,
    std: float,
) -> Tensor:
    """Everything at once, with the weights 0.7, 3 (first layer times 10), 0.02, 0.03 and 0.9."""
    pixels = (view - mean) / std
    competition = 1 - jensen_shannon(teacher, student, 3.0, 0.01, "batchmean").clamp(0, 1)
    return (
        0.7 * class_loss(teacher, labels)
        + 30 * bn_distance(layers[:1])
        + 3 * bn_distance(layers[1:])
        + 0.02 * total_variation(pixels, "l2")
        + 0.03 * image_norm(pixels, "batch")
        + 0.9 * competition
    )


def learning_rate_factors(warmup: int, stages: list[int]) -> list[float]:
    """A linear rise, then a cosine to zero, in each stage."""
    factors = []
    for length in stages:
        for step in range(length):
            angle = math.pi * (step - warmup) / (length - warmup)
            factors.append((step + 1) / warmup if step < warmup else (1 + math.cos(angle)) / 2)
    return factors


def roll(images: Tensor, down: int, right: int) -> Tensor:
    out = torch.empty_like(images)
    height, width = images.shape[2:]
    for i in range(height):
        for j in range(width):
            out[:, :, (i + down) % height, (j + right) % width] = images[:, :, i, j]
    return out
