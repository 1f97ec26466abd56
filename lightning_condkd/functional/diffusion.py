"""Gaussian diffusion: losses of a network that predicts the noise, and the two samplers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_condkd.functional.diffusion_schedule import DiffusionSchedule

LEVELS = 256  # of an image in [-1, 1]
BIN = 1 / (LEVELS - 1)
LAST_BIN = 0.999
SMALLEST_PROBABILITY = 1e-12


def add_noise(clean: Tensor, noise: Tensor, at: DiffusionSchedule) -> Tensor:
    r"""Return the noisy samples :math:`x_t = \sqrt{\bar\alpha_t} x_0 + \sqrt{1 - \bar\alpha_t} \epsilon`.

    Args:
        clean: samples :math:`x_0`, ``(N, D)``.
        noise: standard normal :math:`\epsilon`, ``(N, D)``.
        at: coefficients of each row, see :meth:`DiffusionSchedule.at`.

    Example:
        >>> from lightning_condkd.functional.diffusion_schedule import cosine_schedule
        >>> at = cosine_schedule().at(torch.tensor([0, 999]), torch.zeros(2, 1))
        >>> add_noise(torch.ones(2, 1), torch.zeros(2, 1), at).round(decimals=3)
        tensor([[1.],
                [0.]])
    """
    return at.signal * clean + at.noise * noise


def implied_clean(noisy: Tensor, noise: Tensor, at: DiffusionSchedule) -> Tensor:
    r"""Return the :math:`x_0` that a prediction of the noise implies, not clipped.

    Args:
        noisy: :math:`x_t`, ``(N, D)``.
        noise: predicted :math:`\epsilon`, ``(N, D)``.
        at: coefficients of each row.

    Example:
        >>> from lightning_condkd.functional.diffusion_schedule import cosine_schedule
        >>> at = cosine_schedule().at(torch.tensor([500]), torch.zeros(1, 1))
        >>> clean, noise = torch.full((1, 1), 0.25), torch.ones(1, 1)
        >>> implied_clean(add_noise(clean, noise, at), noise, at).round(decimals=4)
        tensor([[0.2500]])
    """
    return (noisy - at.noise * noise) / at.signal


def noise_error(predicted: Tensor, noise: Tensor) -> Tensor:
    r"""Return the squared error of the predicted noise of each row, the mean over its values.

    Args:
        predicted: :math:`\hat\epsilon`, ``(N, D)``.
        noise: :math:`\epsilon`, ``(N, D)``.

    Returns:
        ``(N,)``.

    Example:
        >>> noise_error(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]))
        tensor([5.])

    References:
        Ho, Jain, Abbeel: "Denoising Diffusion Probabilistic Models", arXiv 2006.11239.
    """
    return (predicted - noise).square().mean(-1)


def learned_log_variance(interpolation: Tensor, at: DiffusionSchedule) -> Tensor:
    r"""Return the log variance :math:`f \log \beta_t + (1 - f) \log \tilde\beta_t` with :math:`f = (v + 1) / 2`.

    Args:
        interpolation: the network's output v, ``(N, D)``; it is not clipped.
        at: coefficients of each row.

    Example:
        >>> from lightning_condkd.functional.diffusion_schedule import cosine_schedule
        >>> at = cosine_schedule().at(torch.tensor([9]), torch.zeros(1, 1))
        >>> torch.equal(learned_log_variance(torch.ones(1, 1), at), at.log_beta)
        True

    References:
        Nichol and Dhariwal: "Improved Denoising Diffusion Probabilistic Models", arXiv 2102.09672.
    """
    share = (interpolation + 1) / 2
    return share * at.log_beta + (1 - share) * at.log_posterior_variance


def variational_bound(
    clean: Tensor, noisy: Tensor, predicted: Tensor, interpolation: Tensor, at: DiffusionSchedule
) -> Tensor:
    r"""Return the term of the variational bound for each row in bits per value; its gradient is that of the variance.

    For t > 0 it is :math:`\mathrm{KL}(q(x_{t-1} | x_t, x_0) \| p(x_{t-1} | x_t))`. For t = 0 it is the negative log
    likelihood of the 256 levels of an image in [-1, 1], whatever the samples are, as in the official code: the bin
    :math:`x_0 \pm 1/255`, open above for values over 0.999 and below for values under -0.999, with the approximation of
    the normal distribution by tanh, and probabilities of 1e-12 at least.

    Args:
        clean: :math:`x_0`, ``(N, D)``.
        noisy: :math:`x_t`, ``(N, D)``.
        predicted: predicted noise, ``(N, D)``; detached here.
        interpolation: the network's output v for the variance, ``(N, D)``.
        at: coefficients of each row.

    Returns:
        ``(N,)``.

    Example:
        >>> from lightning_condkd.functional.diffusion_schedule import cosine_schedule
        >>> at = cosine_schedule().at(torch.tensor([500]), torch.zeros(1, 1))
        >>> clean, noise = torch.zeros(1, 1), torch.ones(1, 1)
        >>> smallest = -torch.ones(1, 1)
        >>> variational_bound(clean, add_noise(clean, noise, at), noise, smallest, at).abs().item() < 1e-5
        True

    References:
        Nichol and Dhariwal: "Improved Denoising Diffusion Probabilistic Models", arXiv 2102.09672; its code.
    """
    log_variance = learned_log_variance(interpolation, at)
    implied = implied_clean(noisy, predicted.detach(), at)
    difference = at.clean_weight * (clean - implied)
    ratio = at.log_posterior_variance - log_variance
    divergence = 0.5 * (ratio.exp() - ratio - 1 + difference.square() * (-log_variance).exp())
    mean = at.clean_weight * implied + at.noisy_weight * noisy
    likelihood = _level_likelihood(clean, mean, log_variance)
    first = at.timesteps.unsqueeze(-1) == 0
    return torch.where(first, -likelihood, divergence).mean(-1) / math.log(2)


def _level_likelihood(values: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    precision = (-0.5 * log_variance).exp()
    below, above = (_normal_cdf((values - mean + side) * precision) for side in (-BIN, BIN))
    probability = torch.where(values < -LAST_BIN, above, torch.where(values > LAST_BIN, 1 - below, above - below))
    return probability.clamp(min=SMALLEST_PROBABILITY).log()


def _normal_cdf(values: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))


def ancestral_step(
    noisy: Tensor, predicted: Tensor, log_variance: Tensor, noise: Tensor, at: DiffusionSchedule
) -> Tensor:
    """Return :math:`x_{t-1}` of a DDPM sampler; the last step, t = 0, adds no noise.

    Args:
        noisy: :math:`x_t`, ``(N, D)``.
        predicted: predicted noise, ``(N, D)``.
        log_variance: log variance of the step, see :func:`learned_log_variance`.
        noise: standard normal, ``(N, D)``.
        at: coefficients of each row.

    Example:
        >>> from lightning_condkd.functional.diffusion_schedule import cosine_schedule
        >>> at = cosine_schedule().at(torch.tensor([0]), torch.zeros(1, 1))
        >>> clean, noise = torch.full((1, 1), 0.25), torch.ones(1, 1)
        >>> ancestral_step(add_noise(clean, noise, at), noise, at.log_beta, noise, at).round(decimals=4)
        tensor([[0.2500]])

    References:
        Ho, Jain, Abbeel: "Denoising Diffusion Probabilistic Models", arXiv 2006.11239.
    """
    mean = at.clean_weight * implied_clean(noisy, predicted, at) + at.noisy_weight * noisy
    return mean + (at.previous_noise > 0) * (0.5 * log_variance).exp() * noise


def ddim_step(noisy: Tensor, predicted: Tensor, at: DiffusionSchedule) -> Tensor:
    """Return :math:`x_{t-1}` of the deterministic DDIM sampler.

    Args:
        noisy: :math:`x_t`, ``(N, D)``.
        predicted: predicted noise, ``(N, D)``.
        at: coefficients of each row.

    Example:
        >>> from lightning_condkd.functional.diffusion_schedule import cosine_schedule
        >>> at = cosine_schedule(8).at(torch.tensor([0]), torch.zeros(1, 1))
        >>> clean, noise = torch.full((1, 1), 0.25), torch.ones(1, 1)
        >>> ddim_step(add_noise(clean, noise, at), noise, at).round(decimals=4)
        tensor([[0.2500]])

    References:
        Song, Meng, Ermon: "Denoising Diffusion Implicit Models", arXiv 2010.02502.
    """
    return at.previous_signal * implied_clean(noisy, predicted, at) + at.previous_noise * predicted


def sample(
    network: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]],
    start: Tensor,
    schedule: DiffusionSchedule,
    draw_noise: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Return samples of a diffusion model, by DDPM if there is noise for its steps, otherwise by DDIM.

    Args:
        network: maps noisy samples ``(N, D)`` and timesteps ``(N,)`` to the predicted noise and the interpolation v of
            the log variance; ``None`` for the variance of the posterior.
        start: standard normal, ``(N, D)``.
        schedule: its steps, see :func:`~lightning_condkd.functional.diffusion_schedule.cosine_schedule`.
        draw_noise: called once for each step, returns standard normal numbers ``(N, D)``; ``None`` for DDIM.

    Returns:
        ``(N, D)``.

    Example:
        >>> from lightning_condkd.functional.diffusion_schedule import cosine_schedule
        >>> clean, schedule = torch.full((1, 3), 0.25, dtype=torch.float64), cosine_schedule(8)
        >>> def exact(noisy, timesteps):
        ...     at = cosine_schedule().at(timesteps, noisy)
        ...     return (noisy - at.signal * clean) / at.noise, None
        >>> sample(exact, torch.randn(1, 3, dtype=torch.float64), schedule)
        tensor([[0.2500, 0.2500, 0.2500]], dtype=torch.float64)
    """
    samples = start
    for step in reversed(range(len(schedule.timesteps))):
        at = schedule.at(torch.tensor([step]), start)
        predicted, interpolation = network(samples, at.timesteps.expand(len(start)))
        if draw_noise is None:
            samples = ddim_step(samples, predicted, at)
            continue
        log_variance = at.log_posterior_variance
        if interpolation is not None:
            log_variance = learned_log_variance(interpolation, at)
        samples = ancestral_step(samples, predicted, log_variance, draw_noise(), at)
    return samples
