"""NAYER's generator and one of its batches, row by row: arXiv 2310.00258 and its official settings."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference import inversion
from tests.reference.fast import look

Parameters = dict[str, Tensor]
Average = list[tuple[Tensor, Tensor]]


def normalized(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """BatchNorm in train mode, channel by channel."""
    channels = []
    for channel, w, b in zip(values.unbind(1), weight, bias, strict=True):
        mean = channel.mean()
        variance = ((channel - mean) ** 2).mean()
        channels.append(w * (channel - mean) / torch.sqrt(variance + 1e-5) + b)
    return torch.stack(channels, dim=1)


def noise(p: Parameters, vectors: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Row i passes the noisy layer number i // K."""
    inputs = normalized(torch.stack([vectors[label] for label in labels.tolist()]), p["norm.weight"], p["norm.bias"])
    rows = []
    for row, values in enumerate(inputs):
        layer = f"noisy.{row // classes}"
        rows.append(p[f"{layer}.weight"] @ values + p[f"{layer}.bias"])
    return torch.stack(rows)


def images(p: Parameters, vectors: Tensor, labels: Tensor, classes: int, size: int) -> Tensor:
    """The decoder of CMI and Fast with two stages."""
    latents = noise(p, vectors, labels, classes)
    maps = latents @ p["decoder.project.weight"].T + p["decoder.project.bias"]
    maps = maps.view(len(latents), -1, size // 4, size // 4)
    maps = normalized(maps, p["decoder.norm.weight"], p["decoder.norm.bias"])
    for conv, norm in (("decoder.stages.1", "decoder.stages.2"), ("decoder.stages.5", "decoder.stages.6")):
        maps = maps.repeat_interleave(2, 2).repeat_interleave(2, 3)
        maps = normalized(F.conv2d(maps, p[f"{conv}.weight"], padding=1), p[f"{norm}.weight"], p[f"{norm}.bias"])
        maps = torch.where(maps > 0, maps, 0.2 * maps)
    pixels = F.conv2d(maps, p["decoder.to_image.weight"], p["decoder.to_image.bias"], padding=1)
    return 1 / (1 + torch.exp(-pixels))


def batch(
    p: Parameters,
    vectors: Tensor,
    labels: Tensor,
    classes: int,
    networks: tuple[nn.Module, nn.Module | None],
    normalize: Callable[[Tensor], Tensor],
    view: Callable[[Tensor, int], Tensor],
    average: Average,
    steps: int,
    rate: float,
) -> tuple[Tensor, Average]:
    """Train the parameters in place for the steps of a batch, and return its best images and the new averages.

    The second network is the student, ``None`` in warm-up. ``view`` gets the images and the step.
    """
    teacher, student = networks
    adam = torch.optim.Adam(p.values(), lr=rate, betas=(0.5, 0.999))
    best, kept = math.inf, torch.empty(0)
    for step in range(steps):
        made = images(p, vectors, labels, classes, size=8)
        seen = normalize(view(made, step))
        logits, layers = look(teacher, seen)
        compared = layers
        if average:
            compared = [
                (0.1 * m + 0.9 * old_m, 0.1 * v + 0.9 * old_v, running_m, running_v)
                for (m, v, running_m, running_v), (old_m, old_v) in zip(layers, average, strict=True)
            ]
        loss = 10 * inversion.bn_distance(compared) + 0.5 * inversion.class_loss(logits, labels)
        if student is not None:
            loss = loss + 1.33 * inversion.adversarial_divergence(logits, student(seen))
        if loss.item() < best:
            best, kept = loss.item(), made.detach()
        adam.zero_grad()
        loss.backward()
        adam.step()
    last = [(m.detach(), v.detach()) for m, v, _, _ in layers]
    blended = [
        (0.9 * old_m + 0.1 * m, 0.9 * old_v + 0.1 * v)
        for (m, v), (old_m, old_v) in zip(last, average or last, strict=True)
    ]
    return kept, blended
