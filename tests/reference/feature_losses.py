"""Losses on feature maps from their formulas: sums over offsets, channels and places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def convolution(maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """y[n, o, i, j] = b[o] + sum_{c, p, q} w[o, c, p, q] x[n, c, stride i + p - padding, stride j + q - padding]."""
    n, channels, height, width = maps.shape
    padded = torch.zeros(n, channels, height + 2 * padding, width + 2 * padding, dtype=maps.dtype)
    padded[:, :, padding : padding + height, padding : padding + width] = maps
    rows = (height + 2 * padding - weight.shape[2]) // stride + 1
    columns = (width + 2 * padding - weight.shape[3]) // stride + 1
    total = torch.zeros(n, len(weight), rows, columns, dtype=maps.dtype)
    for p in range(weight.shape[2]):
        for q in range(weight.shape[3]):
            seen = padded[:, :, p : p + stride * rows : stride, q : q + stride * columns : stride]
            for c in range(channels):
                total = total + weight[:, c, p, q].view(1, -1, 1, 1) * seen[:, c : c + 1]
    return total if bias is None else total + bias.view(1, -1, 1, 1)


def transposed_convolution(maps: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """Every place of the input adds its kernel to the output."""
    n, channels, height, width = maps.shape
    size = weight.shape[2]
    total = torch.zeros(n, weight.shape[1], stride * (height - 1) + size, stride * (width - 1) + size).to(maps)
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                patch = maps[:, c, i, j].view(n, 1, 1, 1) * weight[c]
                total[:, :, stride * i : stride * i + size, stride * j : stride * j + size] += patch
    end = None if padding == 0 else -padding
    return total[:, :, padding:end, padding:end] + bias.view(1, -1, 1, 1)


def batch_norm(maps: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) for each channel, over batch and places."""
    channels = []
    for c in range(maps.shape[1]):
        values = maps[:, c]
        mean = values.sum() / values.numel()
        variance = ((values - mean) ** 2).sum() / values.numel()
        channels.append((values - mean) / torch.sqrt(variance + eps) * weight[c] + bias[c])
    return torch.stack(channels, dim=1)


def relu(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, torch.zeros_like(values))


def mean_squared(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).sum() / a.numel()


def pool(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Mean over equal boxes; the height and width are multiples."""
    high, wide = maps.shape[2] // rows, maps.shape[3] // columns
    boxes = [
        [
            maps[:, :, high * i : high * (i + 1), wide * j : wide * (j + 1)].sum((2, 3)) / (high * wide)
            for j in range(columns)
        ]
        for i in range(rows)
    ]
    return torch.stack([torch.stack(row, dim=2) for row in boxes], dim=2)


def hint(student: Tensor, teacher: Tensor, parameters: dict[str, Tensor], stride: int, padding: int) -> Tensor:
    """FitNet (arXiv 1412.6550): convolution, BatchNorm, ReLU, squared error."""
    hidden = convolution(student, parameters["0.weight"], parameters["0.bias"], stride, padding)
    return mean_squared(relu(batch_norm(hidden, parameters["1.weight"], parameters["1.bias"])), teacher)


def variational(student: Tensor, teacher: Tensor, weights: Sequence[Tensor], raw: Tensor, eps: float) -> Tensor:
    """VID (arXiv 1904.05835), one stage: a normal density whose mean is three 1x1 convolutions of the student's map."""
    mean = convolution(
        relu(convolution(relu(convolution(student, weights[0], None)), weights[1], None)), weights[2], None
    )
    total = torch.zeros((), dtype=mean.dtype)
    for c in range(mean.shape[1]):
        variance = math.log(1 + math.exp(raw[c].item())) + eps
        for t, m in zip(teacher[:, c].flatten(), mean[:, c].flatten(), strict=True):
            total = total + ((t - m) ** 2 / variance + math.log(variance)) / 2
    return total / mean.numel()


def hierarchical_context(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """ReviewKD (arXiv 2104.09044): squared errors of the maps and of their pools of 4, 2, 1."""
    total = torch.zeros(())
    for s, t in zip(student, teacher, strict=True):
        error, weight, weights = mean_squared(s, t), 1.0, 1.0
        for size in (4, 2, 1):
            if size < s.shape[2]:
                weight = weight / 2
                error = error + weight * mean_squared(pool(s, size, size), pool(t, size, size))
                weights = weights + weight
        total = total + error / weights
    return total


def nearest(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Every place takes the place that it falls on."""
    high, wide = maps.shape[2], maps.shape[3]
    return torch.stack(
        [
            torch.stack([maps[:, :, i * high // rows, j * wide // columns] for j in range(columns)], dim=2)
            for i in range(rows)
        ],
        dim=2,
    )


def review(student: Sequence[Tensor], teacher: Sequence[Tensor], parameters: dict[str, Tensor]) -> Tensor:
    """ReviewKD (arXiv 2104.09044): the stages, the embedding last, fused from the deepest to the first."""
    results: dict[int, Tensor] = {}
    fused: Tensor | None = None
    for index in range(len(student) - 1, -1, -1):
        w = {
            name.removeprefix(f"{index}."): value for name, value in parameters.items() if name.startswith(f"{index}.")
        }
        x = batch_norm(
            convolution(student[index], w["inwards.0.weight"], None), w["inwards.1.weight"], w["inwards.1.bias"]
        )
        if fused is not None:
            y = nearest(fused, x.shape[2], x.shape[3])
            z = convolution(torch.cat([x, y], 1), w["attention.0.weight"], w["attention.0.bias"])
            z = 1 / (1 + torch.exp(-z))
            x = torch.stack([x[:, c] * z[:, 0] + y[:, c] * z[:, 1] for c in range(x.shape[1])], dim=1)
        fused = nearest(x, teacher[index].shape[2], teacher[index].shape[3])
        hidden = convolution(fused, w["outwards.0.weight"], None, padding=1)
        results[index] = batch_norm(hidden, w["outwards.1.weight"], w["outwards.1.bias"])
    return hierarchical_context([results[index] for index in range(len(student))], teacher)


def projection(student: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """SimKD (arXiv 2203.14001): convolutions of 1x1, 3x3 and 1x1, each with BatchNorm and ReLU."""
    for index, padding in ((0, 0), (3, 1), (6, 0)):
        student = convolution(student, parameters[f"{index}.weight"], None, padding=padding)
        student = relu(batch_norm(student, parameters[f"{index + 1}.weight"], parameters[f"{index + 1}.bias"]))
    return student


def activation_maps(maps: Tensor, weight: Tensor) -> Tensor:
    """M[n, k] = sum_c w[k, c] A[n, c] (arXiv 1512.04150)."""
    return torch.stack(
        [torch.stack([sum(w * one for w, one in zip(row, image, strict=True)) for row in weight]) for image in maps]
    )


def unit_over_places(maps: Tensor) -> Tensor:
    return maps / torch.sqrt((maps**2).sum((2, 3), keepdim=True))


def gradient_weighted(logits: Tensor, classes: Sequence[int], maps: Tensor) -> Tensor:
    """sum_c mean_hw(dz / dA_c) A_c, the weights being constants."""
    total = sum(logits[n, c] for n, c in enumerate(classes))
    (gradient,) = torch.autograd.grad(total, maps, retain_graph=True)
    places = maps.shape[2] * maps.shape[3]
    images = []
    for n in range(len(maps)):
        images.append(sum(gradient[n, c].sum() / places * maps[n, c] for c in range(maps.shape[1])))
    return torch.stack(images)
