"""Guided sampling of a latent diffusion model, from the formulas: one image, one timestep, one box at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.inversion import bn_distance


def alpha_bars(first: float, last: float, count: int) -> list[float]:
    """The products of 1 - beta, where the roots of beta lie on a line."""
    product, found = 1.0, []
    for number in range(count):
        root = math.sqrt(first) + (math.sqrt(last) - math.sqrt(first)) * number / (count - 1)
        product *= 1 - root * root
        found.append(product)
    return found


def times(count: int, steps: int, offset: int = 1) -> list[int]:
    return [(count // steps) * number + offset for number in reversed(range(steps))]


def clean(noisy: Tensor, noise: Tensor, bar: float) -> Tensor:
    return (noisy - math.sqrt(1 - bar) * noise) / math.sqrt(bar)


def ancestral(noisy: Tensor, estimate: Tensor, bar: float, before: float, new: Tensor) -> Tensor:
    """A draw from q(z_{t-1} | z_t, z_0), the posterior of the steps that are left out."""
    alpha = bar / before
    mean = math.sqrt(before) * (1 - alpha) / (1 - bar) * estimate + math.sqrt(alpha) * (1 - before) / (1 - bar) * noisy
    return mean + math.sqrt((1 - before) / (1 - bar) * (1 - alpha)) * new


def deterministic(estimate: Tensor, noise: Tensor, before: float) -> Tensor:
    return math.sqrt(before) * estimate + math.sqrt(1 - before) * noise


def paste(latents: Tensor, partners: Sequence[int], box: tuple[int, int, int, int]) -> Tensor:
    top, left, bottom, right = box
    found = latents.clone()
    for image, partner in enumerate(partners):
        for row in range(top, bottom):
            for column in range(left, right):
                found[image, :, row, column] = latents[partner, :, row, column]
    return found


def box(kept: float, center: tuple[float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Edges of a box of the share 1 - kept, cut to the map, then rounded."""
    found = []
    for side, middle in zip(size, center, strict=True):
        length = side * math.sqrt(1 - kept)
        low, high = middle * side - length / 2, middle * side + length / 2
        found.append([round(min(max(edge, 0.0), float(side))) for edge in (low, high)])
    return found[0][0], found[1][0], found[0][1], found[1][1]


class Weights(NamedTuple):
    bn: float = 0.1
    adversarial: float = 0.0
    rate: float = 1.0


class Model(NamedTuple):
    """``noise(z, t)`` is the prediction with classifier-free guidance, ``decode(z0)`` gives images in [-1, 1]."""

    noise: Callable[[Tensor, int], Tensor]
    decode: Callable[[Tensor], Tensor]
    bars: list[float]
    last_bar: float


def loss(images: Tensor, labels: Tensor, teacher: Any, student: Any, weights: Weights) -> Tensor:
    """Sum over the images, the distance of the statistics once for each of them."""
    output = teacher(images, bn=True)
    total = len(images) * weights.bn * bn_distance([tuple(layer) for layer in output.bn])
    pupil = student(images).logits
    for image, label in enumerate(labels.tolist()):
        total = total - F.log_softmax(output.logits[image], 0)[label]
        if weights.adversarial and int(output.logits[image].argmax()) == int(pupil[image].argmax()):
            p = F.softmax(output.logits[image].detach(), 0)
            divergence = (p * (p.log() - F.log_softmax(pupil[image], 0))).sum()
            total = total - weights.adversarial * divergence
    return total


def pixels(decoded: Tensor) -> Tensor:
    return (decoded * 0.5 + 0.5).clamp(0, 1)


def sample(
    model: Model,
    start: Tensor,
    labels: Tensor,
    networks: tuple[Any, Any],
    weights: Weights,
    at: Sequence[int],
    new_noise: Sequence[Tensor],
    eta: float = 1.0,
    through_unet: bool = True,
    mix: Callable[[int, Tensor], Tensor] = lambda step, latents: latents,
    asked: list[Tensor] | None = None,
) -> Tensor:
    """The final images of a trajectory; those that the teacher was asked about go into ``asked``."""
    latents = start
    for step, time in enumerate(at):
        bar = model.bars[time]
        before = model.bars[at[step + 1]] if step + 1 < len(at) else model.last_bar
        if step + 1 < len(at):
            leaf = latents.clone().requires_grad_()
            noise = model.noise(leaf, time)
            estimate = clean(leaf, noise if through_unet else noise.detach(), bar)
            images = pixels(model.decode(estimate))
            if asked is not None:
                asked.append(images.detach())
            total = loss(images, labels, *networks, weights)
            (gradient,) = torch.autograd.grad(total, leaf)
            latents = mix(step, latents - weights.rate * gradient)
        with torch.no_grad():
            noise = model.noise(latents, time)
            estimate = clean(latents, noise, bar)
            if eta == 1:
                latents = ancestral(latents, estimate, bar, before, new_noise[step])
            else:
                latents = deterministic(estimate, noise, before)
    with torch.no_grad():
        return pixels(model.decode(estimate))
