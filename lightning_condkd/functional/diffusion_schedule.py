"""Noise schedule of Gaussian diffusion, whole or over a few of its steps."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_condkd.randomness import send

STEPS = 1000
"""Number of steps of the process in DDPM and GenDD."""

LARGEST_BETA = 0.999


class DiffusionSchedule(NamedTuple):
    r"""Coefficients of a Gaussian diffusion process, one for each step t, in float64.

    With :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)` and :math:`\bar\alpha_{-1} = 1`:

    Args:
        timesteps: index that the network is given, ``(S,)`` int64.
        signal: :math:`\sqrt{\bar\alpha_t}`, ``(S,)``.
        noise: :math:`\sqrt{1 - \bar\alpha_t}`.
        previous_signal: :math:`\sqrt{\bar\alpha_{t-1}}`.
        previous_noise: :math:`\sqrt{1 - \bar\alpha_{t-1}}`.
        clean_weight: weight of :math:`x_0` in the mean of :math:`q(x_{t-1} | x_t, x_0)`.
        noisy_weight: weight of :math:`x_t` in it.
        log_beta: :math:`\log \beta_t`, the larger bound of the log variance of a step.
        log_posterior_variance: :math:`\log \tilde\beta_t`, the log variance of :math:`q(x_{t-1} | x_t, x_0)`, which is
            the smaller bound; the first entry, which would be the logarithm of 0, is that of the second step.

    Example:
        >>> schedule = cosine_schedule()
        >>> len(schedule.timesteps), schedule.timesteps[-1]
        (1000, tensor(999))
        >>> schedule.at(torch.tensor([0, 999]), torch.zeros(2, 3)).signal.shape
        torch.Size([2, 1])
    """

    timesteps: Tensor
    signal: Tensor
    noise: Tensor
    previous_signal: Tensor
    previous_noise: Tensor
    clean_weight: Tensor
    noisy_weight: Tensor
    log_beta: Tensor
    log_posterior_variance: Tensor

    def at(self, steps: Tensor, like: Tensor) -> DiffusionSchedule:
        """Return the coefficients of one step for each row, as columns in the precision of another tensor.

        Args:
            steps: positions in this schedule, ``(N,)`` int64, on the CPU.
            like: ``(N, D)``, the rows.
        """
        timesteps, *values = (value[steps] for value in self)
        columns = (send(value.to(like.dtype), like.device).unsqueeze(-1) for value in values)
        return DiffusionSchedule(send(timesteps, like.device), *columns)


def cosine_betas(steps: int = STEPS) -> Tensor:
    r"""Return the variances of the cosine schedule, :math:`\beta_t = \min(1 - a((t+1)/T) / a(t/T), 0.999)`.

    Here :math:`a(u) = \cos^2\left(\frac{u + 0.008}{1.008} \frac{\pi}{2}\right)`.

    Args:
        steps: number of steps T.

    Returns:
        ``(T,)`` in float64.

    Example:
        >>> betas = cosine_betas()
        >>> f"{betas[0]:.2e}", betas[-1].item()
        ('4.13e-05', 0.999)

    References:
        Nichol and Dhariwal: "Improved Denoising Diffusion Probabilistic Models", arXiv 2102.09672.
    """
    position = torch.arange(steps + 1, dtype=torch.float64) / steps
    level = torch.cos((position + 0.008) / 1.008 * (math.pi / 2)).square()
    return (1 - level[1:] / level[:-1]).clamp(max=LARGEST_BETA)


def cosine_schedule(kept: int = STEPS, steps: int = STEPS) -> DiffusionSchedule:
    r"""Return the cosine schedule, or a shorter process over some of its steps.

    Kept are the steps ``round(linspace(0, T - 1, S))``, both ends included; a single one is the last, since sampling
    begins with pure noise. The shorter process has :math:`\beta` of its own, so that its :math:`\bar\alpha` are those
    of the kept steps; the network is given their indices in the whole process.

    Args:
        kept: number of steps S of the shorter process.
        steps: number of steps T of the whole process.

    Returns:
        The coefficients, S of each.

    Raises:
        ValueError: if ``kept`` is not in [1, T].

    Example:
        >>> cosine_schedule(4).timesteps
        tensor([  0, 333, 666, 999])

    References:
        Nichol and Dhariwal: "Improved Denoising Diffusion Probabilistic Models", arXiv 2102.09672.
    """
    if not 1 <= kept <= steps:
        raise ValueError(f"kept: expected a number of sampling steps in [1, {steps}], got {kept}")
    even = torch.linspace(0, steps - 1, kept, dtype=torch.float64).round().long()
    timesteps = even if kept > 1 else torch.tensor([steps - 1])
    return _schedule(timesteps, (1 - cosine_betas(steps)).cumprod(0)[timesteps])


def _schedule(timesteps: Tensor, alpha_bars: Tensor) -> DiffusionSchedule:
    previous = torch.cat([alpha_bars.new_ones(1), alpha_bars[:-1]])
    betas = 1 - alpha_bars / previous
    variance = betas * (1 - previous) / (1 - alpha_bars)
    smallest = torch.cat([variance[1:2] if len(variance) > 1 else betas, variance[1:]])
    return DiffusionSchedule(
        timesteps,
        alpha_bars.sqrt(),
        (1 - alpha_bars).sqrt(),
        previous.sqrt(),
        (1 - previous).sqrt(),
        betas * previous.sqrt() / (1 - alpha_bars),
        (1 - previous) * (1 - betas).sqrt() / (1 - alpha_bars),
        betas.log(),
        smallest.log(),
    )
