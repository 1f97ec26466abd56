"""Gaussian diffusion (arXiv 2006.11239, 2010.02502, 2102.09672) and GenDD (arXiv 2507.14503), number by number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 1000


def cosine_beta(t: int, steps: int = STEPS) -> float:
    def level(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return min(1 - level((t + 1) / steps) / level(t / steps), 0.999)


def alpha_bar(t: int, steps: int = STEPS) -> float:
    """Product of 1 - beta over the steps 0 to t; 1 for t = -1."""
    product = 1.0
    for s in range(t + 1):
        product *= 1 - cosine_beta(s, steps)
    return product


class Step(NamedTuple):
    """One step of a process over kept timesteps: its timestep, alpha-bar, that of the step before, both variances."""

    timestep: int
    alpha_bar: float
    previous: float
    beta: float
    beta_tilde: float


def process(kept: list[int], steps: int = STEPS) -> list[Step]:
    made: list[Step] = []
    for t in kept:
        now, previous = alpha_bar(t, steps), made[-1].alpha_bar if made else 1.0
        beta = 1 - now / previous
        made.append(Step(t, now, previous, beta, beta * (1 - previous) / (1 - now)))
    made[0] = made[0]._replace(beta_tilde=made[1].beta_tilde)
    return made


def kept_steps(count: int, steps: int = STEPS) -> list[int]:
    return [round(i * (steps - 1) / (count - 1)) for i in range(count)]


def implied_clean(x: float, eps: float, step: Step) -> float:
    return (x - math.sqrt(1 - step.alpha_bar) * eps) / math.sqrt(step.alpha_bar)


def posterior_mean(x0: float, x: float, step: Step) -> float:
    first = step.beta * math.sqrt(step.previous) / (1 - step.alpha_bar)
    second = (1 - step.previous) * math.sqrt(1 - step.beta) / (1 - step.alpha_bar)
    return first * x0 + second * x


def log_variance(v: float, step: Step) -> float:
    f = (v + 1) / 2
    return f * math.log(step.beta) + (1 - f) * math.log(step.beta_tilde)


def ddpm_step(x: float, eps: float, log_var: float, noise: float, step: Step) -> float:
    mean = posterior_mean(implied_clean(x, eps, step), x, step)
    return mean if step.previous == 1.0 else mean + math.sqrt(math.exp(log_var)) * noise


def ddim_step(x: float, eps: float, step: Step) -> float:
    return math.sqrt(step.previous) * implied_clean(x, eps, step) + math.sqrt(1 - step.previous) * eps


def normal_kl(mean1: float, log_var1: float, mean2: float, log_var2: float) -> float:
    var1, var2 = math.exp(log_var1), math.exp(log_var2)
    return 0.5 * (math.log(var2 / var1) + (var1 + (mean1 - mean2) ** 2) / var2 - 1)


def level_log_likelihood(x: float, mean: float, log_var: float) -> float:
    def cdf(value: float) -> float:
        z = (value - mean) / math.exp(0.5 * log_var)
        return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    upper = 1.0 if x > 0.999 else cdf(x + 1 / 255)
    lower = 0.0 if x < -0.999 else cdf(x - 1 / 255)
    return math.log(max(upper - lower, 1e-12))


def variational(x0: float, x: float, eps: float, v: float, step: Step) -> float:
    """One value of the bound, in bits."""
    mean, log_var = posterior_mean(implied_clean(x, eps, step), x, step), log_variance(v, step)
    if step.timestep == 0:
        return -level_log_likelihood(x0, mean, log_var) / math.log(2)
    true = posterior_mean(x0, x, step)
    return normal_kl(true, math.log(step.beta_tilde), mean, log_var) / math.log(2)


def layer_norm(x: Tensor, eps: float) -> Tensor:
    mean = sum(x) / len(x)
    variance = sum((one - mean) ** 2 for one in x) / len(x)
    return torch.stack([(one - mean) / torch.sqrt(variance + eps) for one in x])


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def head(weights: Mapping[str, Tensor], depth: int, noisy: Tensor, t: int, place: int, condition: Tensor) -> Tensor:
    """Output of the network for one token."""

    def linear(name: str, x: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    angles = [t * math.exp(-math.log(10000) * k / 128) for k in range(128)]
    waves = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)], dtype=noisy.dtype)
    y = linear("time.2", silu(linear("time.0", waves)))
    y = y + linear("condition", condition) + weights["place.weight"][place]
    x = linear("input", noisy)
    for b in range(depth):
        shift, scale, gate = linear(f"blocks.{b}.modulation.1", silu(y)).chunk(3)
        h = layer_norm(x, 1e-6) * weights[f"blocks.{b}.norm.weight"] + weights[f"blocks.{b}.norm.bias"]
        h = h * (1 + scale) + shift
        x = x + gate * linear(f"blocks.{b}.layers.2", silu(linear(f"blocks.{b}.layers.0", h)))
    shift, scale = linear("modulation.1", silu(y)).chunk(2)
    return linear("output", layer_norm(x, 1e-6) * (1 + scale) + shift)


class Row(NamedTuple):
    """What is drawn for one token of one image."""

    image: int
    place: int
    timestep: int
    noise: Tensor
    dropped: bool


def diffusion_terms(
    network: Callable[[Tensor, int, int, Tensor], Tensor], targets: Tensor, conditions: Tensor, rows: list[Row]
) -> tuple[Tensor, float]:
    """Return the error of the noise and the variational term of features, the means over rows."""
    steps, error, bound = process(list(range(STEPS))), torch.zeros(()), 0.0
    for row in rows:
        size, step = len(row.noise), steps[row.timestep]
        x0 = targets[row.image][row.place * size : (row.place + 1) * size]
        x = math.sqrt(step.alpha_bar) * x0 + math.sqrt(1 - step.alpha_bar) * row.noise
        condition = 0 * conditions[row.image] if row.dropped else conditions[row.image]
        output = network(x, row.timestep, row.place, condition)
        eps, v = output[:size], output[size:]
        error = error + sum((eps - row.noise) ** 2) / size / len(rows)
        values = zip(x0.tolist(), x.tolist(), eps.tolist(), v.tolist(), strict=True)
        bound += sum(variational(*value, step) for value in values) / size / len(rows)
    return error, bound


def targets(
    features: Tensor, centers: Tensor, labels: list[list[float]], contraction: float, partners: list[int], share: float
) -> Tensor:
    """Contracted and mixed features."""
    moved = []
    for f, y in zip(features, labels, strict=True):
        center = sum((p * c for p, c in zip(y, centers, strict=True)), torch.zeros_like(f))
        moved.append((1 - contraction) * f + contraction * center)
    return torch.stack([share * moved[i] + (1 - share) * moved[j] for i, j in enumerate(partners)])
