"""The denoising step of GenDD: what it draws, and its errors."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_condkd.functional.diffusion import add_noise, noise_error, variational_bound
from lightning_condkd.functional.diffusion_schedule import STEPS, DiffusionSchedule
from lightning_condkd.models.diffusion_head import DiffusionHead
from lightning_condkd.randomness import Draw, send


class DenoisingRows(NamedTuple):
    """Tokens to denoise: which, at which timesteps, with which noise. All on the CPU.

    Args:
        images: row of the batch, ``(R,)`` int64.
        places: number of the token in its feature, ``(R,)`` int64.
        timesteps: ``(R,)`` int64, in [0, 999].
        noise: standard normal, ``(R, d)``.
        keeps: whether the condition is given, ``(R,)``.
    """

    images: Tensor
    places: Tensor
    timesteps: Tensor
    noise: Tensor
    keeps: Tensor

    def parts(self, most: int) -> list[DenoisingRows]:
        """Return parts of at most so many rows.

        Args:
            most: the largest number.
        """
        starts = range(0, len(self.images), most)
        return [DenoisingRows(*(value[start : start + most] for value in self)) for start in starts]


def draw_rows(draw: Draw, images: int, repeats: int, tokens: int, size: int, condition_drop: float) -> DenoisingRows:
    """Draw for every token of every image; what an image gets depends only on its place in the global batch.

    Each image has a generator of its own, so that a rank draws nothing for the images of others.

    Args:
        draw: randomness of the step.
        images: number of images of this rank.
        repeats: number of times that each token is denoised.
        tokens: number of tokens of an image.
        size: width d of a token.
        condition_drop: probability that a row is denoised without its condition.

    Example:
        >>> draw_rows(Draw(0, 0), images=2, repeats=3, tokens=4, size=8, condition_drop=0.2).noise.shape
        torch.Size([24, 8])
    """
    shape = repeats, tokens
    drawn = []
    for place in range(images * draw.world_size)[draw.rows]:
        generator = draw.generator(f"denoising {place}")
        noise = torch.randn(*shape, size, generator=generator)
        timesteps = torch.randint(STEPS, shape, generator=generator)
        drawn.append((timesteps, noise, torch.rand(shape, generator=generator) >= condition_drop))
    image, _, token = torch.meshgrid(*(torch.arange(n) for n in (images, *shape)), indexing="ij")
    values = (torch.stack(one) for one in zip(*drawn, strict=True))
    return DenoisingRows(*(value.flatten(0, 2) for value in (image, token, *values)))


def draw_mixture(draw: Draw, images: int, concentration: float) -> tuple[Tensor, float]:
    """Draw for every row of this rank another one of this rank, and the share of the first, one for all.

    Args:
        draw: randomness of the step.
        images: number of images of this rank.
        concentration: both parameters of the Beta distribution of the share.

    Returns:
        Index of the other row, ``(N,)`` int64, and the share in [0, 1].

    Example:
        >>> partners, share = draw_mixture(Draw(0, 0), images=4, concentration=1.0)
        >>> sorted(partners.tolist()), 0 <= share <= 1
        ([0, 1, 2, 3], True)
    """
    generator = draw.generator(f"feature mixture {draw.rank}")
    seed = int(torch.randint(2**62, (), generator=generator))
    share = random.Random(seed).betavariate(concentration, concentration)
    return torch.randperm(images, generator=generator), share


def denoising_errors(
    head: DiffusionHead,
    schedule: DiffusionSchedule,
    tokens: Tensor,
    condition: Tensor,
    rows: DenoisingRows,
    most_rows: int,
) -> Tensor:
    """Return the error of the noise and, if the variance is learned, the variational bound, the means over rows.

    More rows than ``most_rows`` are computed in parts, each a second time for its gradient, so that the memory is that
    of one part; the gradient is the same.

    Args:
        head: the network.
        schedule: the whole process.
        tokens: of the targets, ``(N, n, d)``.
        condition: ``(N, condition_size)``, with a graph.
        rows: what to denoise.
        most_rows: number of rows at once.

    Returns:
        ``(2,)``, or ``(1,)``.

    Example:
        >>> from lightning_condkd.functional.diffusion_schedule import cosine_schedule
        >>> rows = draw_rows(Draw(0, 0), images=2, repeats=3, tokens=4, size=8, condition_drop=0.2)
        >>> head, tokens = DiffusionHead(8, 4, condition_size=16, width=32), torch.randn(2, 4, 8)
        >>> denoising_errors(head, cosine_schedule(), tokens, torch.randn(2, 16), rows, most_rows=10).shape
        torch.Size([2])
    """
    parts = rows.parts(most_rows)
    errors: Callable[..., Tensor] = partial(_errors, head, schedule)
    if len(parts) > 1:
        errors = partial(checkpoint, errors, use_reentrant=False, preserve_rng_state=False)
    return torch.stack([errors(tokens, condition, part) for part in parts]).sum(0) / len(rows.images)


def _errors(
    head: DiffusionHead, schedule: DiffusionSchedule, tokens: Tensor, condition: Tensor, rows: DenoisingRows
) -> Tensor:
    images, places, keeps = (send(x, tokens.device) for x in (rows.images, rows.places, rows.keeps))
    clean, noise = tokens[images, places], send(rows.noise.to(tokens.dtype), tokens.device)
    at = schedule.at(rows.timesteps, clean)
    noisy = add_noise(clean, noise, at)
    predicted, interpolation = head(noisy, at.timesteps, places, condition[images] * keeps.unsqueeze(1))
    errors = [noise_error(predicted, noise).sum()]
    if interpolation is not None:
        errors.append(variational_bound(clean, noisy, predicted, interpolation, at).sum())
    return torch.stack(errors)
