from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from lightning_condkd.functional import replay
from lightning_condkd.randomness import seeded_generator
from tests.reference import pre_dfkd as reference


def _random(purpose: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded_generator(0, purpose), dtype=torch.float64).requires_grad_()


def _assert_same(ours: Tensor, theirs: Tensor, *leaves: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        assert a.abs().max() > 1e-6
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_image_l1_follows_the_formula() -> None:
    images, targets, std = _random("images", 3, 2, 4, 4), _random("targets", 3, 2, 4, 4), [0.5, 0.2]
    ours = replay.image_l1(images, targets, torch.tensor(std, dtype=torch.float64).view(-1, 1, 1))
    _assert_same(ours, reference.image_l1(images, targets, std), images, targets)


def test_gaussian_divergence_follows_the_formula() -> None:
    mean, log_variance = _random("mean", 5, 3), _random("variance", 5, 3)
    ours = replay.gaussian_divergence(mean, log_variance)
    _assert_same(ours, reference.gaussian_divergence(mean, log_variance), mean, log_variance)
    analytic = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum() / 5
    torch.testing.assert_close(ours, analytic)


def test_gaussian_divergence_is_least_at_the_standard_normal() -> None:
    mean, log_variance = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    loss = replay.gaussian_divergence(mean, log_variance)
    assert loss == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, (mean, log_variance)))


def test_moments_follow_the_formulas() -> None:
    latents = _random("latents", 6, 4)
    ours, theirs = replay.latent_variance_distance(latents), reference.latent_variance_distance(latents)
    _assert_same(ours, theirs, latents)
    _assert_same(replay.latent_mean_distance(latents), reference.latent_mean_distance(latents), latents)


def test_a_single_latent_has_variance_zero() -> None:
    latents = _random("one latent", 1, 4)
    loss = replay.latent_variance_distance(latents)
    assert loss == 1
    assert not torch.autograd.grad(loss, latents)[0].any()


def test_reparameterised_noise_has_the_moments() -> None:
    noise = torch.randn(40_000, 1, generator=seeded_generator(0, "noise"))
    latents = replay.reparameterize(torch.tensor([[2.0]]), torch.tensor([[0.09]]).log(), noise)
    assert latents.mean().item() == pytest.approx(2.0, abs=0.01)
    assert latents.std().item() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.99)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_adam_step_is_that_of_torch(betas: tuple[float, float], dtype: torch.dtype) -> None:
    values = torch.randn(200, generator=seeded_generator(0, "values")).to(dtype)
    magnitude = 10.0 ** torch.linspace(-12, 3, 200, dtype=dtype)  # down to where eps decides
    gradient = magnitude * torch.randn(200, generator=seeded_generator(0, "gradient")).sign().to(dtype)
    gradient[0] = 0
    parameter = values.clone().requires_grad_()
    parameter.grad = gradient
    torch.optim.Adam([parameter], lr=0.02, betas=betas).step()
    step = replay.first_adam_step(values, gradient, lr=0.02)
    torch.testing.assert_close(step, parameter.detach(), rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-15)
    assert step[0] == values[0]
    assert 0 < (step[1] - values[1]).abs() < 0.01
