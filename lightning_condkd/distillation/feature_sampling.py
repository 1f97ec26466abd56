"""Samples of the teacher's features, given the student's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_condkd.functional.diffusion import sample
from lightning_condkd.functional.diffusion_schedule import STEPS, cosine_schedule
from lightning_condkd.functional.feature_generation import guided_noise
from lightning_condkd.models.diffusion_head import DiffusionHead
from lightning_condkd.randomness import seeded_generator, send

Sampler = Literal["ddpm", "ddim"]


@dataclass(frozen=True)
class FeatureSampling:
    """Settings of the sampler of GenDD; the defaults are those of its reported numbers on CIFAR-100.

    The noise of an image is a function of the seed and its pixels, so that a prediction depends neither on the batch
    nor on the order of the images.

    Args:
        sampler: ``ddpm``, or ``ddim``, which adds no noise between steps and needs fewer (our extension).
        steps: number of denoising steps; 100 on CIFAR-100 and 64 on ImageNet in the official code.
        guidance_scale: of classifier-free guidance; 2 in the official code. 1 is sampling with the condition alone, at
            half the cost.
        samples: number of sampled features that are averaged; 5 for the reported numbers, 1 while training.
        seed: seed of the noise.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> FeatureSampling(sampler="ddim", steps=8, samples=1)
        FeatureSampling(sampler='ddim', steps=8, guidance_scale=2.0, samples=1, seed=0)

    References:
        Cui et al.: "Generative Distribution Distillation", arXiv 2507.14503, and its code.
    """

    sampler: Sampler = "ddpm"
    steps: int = 100
    guidance_scale: float = 2.0
    samples: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"sampler: expected 'ddpm' or 'ddim', got {self.sampler!r}")
        if not 1 <= self.steps <= STEPS:
            raise ValueError(f"steps: expected a number of denoising steps in [1, {STEPS}], got {self.steps}")
        if not self.guidance_scale >= 0:
            raise ValueError(f"guidance_scale: expected 0 or more, got {self.guidance_scale}; 1 is no guidance")
        if self.samples < 1:
            raise ValueError(f"samples: expected 1 or more features to average, got {self.samples}")


@torch.no_grad()
def sample_features(
    head: DiffusionHead, condition: Tensor, keys: Sequence[str], settings: FeatureSampling, most_rows: int
) -> Tensor:
    """Return for each condition the mean of sampled features.

    Args:
        head: the trained network.
        condition: ``(N, condition_size)``.
        keys: a text for each, which its noise depends on.
        settings: of the sampler.
        most_rows: number of tokens that are denoised at once, about; at least those of one image are.

    Returns:
        ``(N, tokens * d)``.

    Example:
        >>> head = DiffusionHead(token_size=4, tokens=2, condition_size=3, width=8)
        >>> sample_features(head, torch.randn(5, 3), "abcde", FeatureSampling(steps=4), most_rows=1000).shape
        torch.Size([5, 8])
    """
    halves = 1 if settings.guidance_scale == 1 else 2
    images = max(1, most_rows // (settings.samples * head.tokens * halves))
    parts = [slice(start, start + images) for start in range(0, len(condition), images)]
    return torch.cat([_sample_part(head, condition[part], keys[part], settings) for part in parts])


def _sample_part(head: DiffusionHead, condition: Tensor, keys: Sequence[str], settings: FeatureSampling) -> Tensor:
    generators = [seeded_generator(settings.seed, f"feature sampling {key}") for key in keys]
    shape = settings.samples, len(condition), head.tokens, head.token_size

    def draw_noise() -> Tensor:
        noise = torch.stack([torch.randn(shape[0], *shape[2:], generator=g) for g in generators], dim=1)
        return send(noise.to(condition.dtype), condition.device).view(-1, head.token_size)

    places = torch.arange(head.tokens, device=condition.device).repeat(shape[0] * shape[1])
    rows = condition.repeat_interleave(head.tokens, dim=0).repeat(settings.samples, 1)

    def network(noisy: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor | None]:
        if settings.guidance_scale == 1:
            return _predict(head, noisy, timesteps, places, rows)
        doubled = (value.repeat(2, *[1] * (value.dim() - 1)) for value in (noisy, timesteps, places))
        noise, interpolation = _predict(head, *doubled, torch.cat([rows, torch.zeros_like(rows)]))
        conditional, unconditional = noise.chunk(2)
        guided = guided_noise(conditional, unconditional, settings.guidance_scale)
        return guided, None if interpolation is None else interpolation[: len(rows)]

    between = draw_noise if settings.sampler == "ddpm" else None
    tokens = sample(network, draw_noise(), cosine_schedule(settings.steps), between)
    return tokens.view(*shape[:2], -1).mean(0)


def _predict(head: DiffusionHead, *inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    noise, interpolation = head(*inputs)
    return noise, interpolation
