from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional import diffusion
from lightning_condkd.functional.diffusion_schedule import DiffusionSchedule, cosine_betas, cosine_schedule
from lightning_condkd.randomness import seeded_generator
from tests.reference import gendd as reference

WHOLE, F64 = cosine_schedule(), torch.float64


def _normal(purpose: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded_generator(0, purpose), dtype=F64)


def _apply(function: Callable[..., float], *values: Tensor, steps: list[reference.Step]) -> Tensor:
    rows = zip(*(value.tolist() for value in values), steps, strict=True)
    return torch.tensor([[function(*one, step) for one in zip(*row, strict=True)] for *row, step in rows], dtype=F64)


def _assert_same(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_betas_are_the_cosine_ones_with_the_known_ends() -> None:
    betas = cosine_betas()
    _assert_same(betas, torch.tensor([reference.cosine_beta(t) for t in range(1000)], dtype=F64), 1e-12)
    assert betas[0].item() == pytest.approx(4.1e-5, abs=5e-7)
    assert (betas == 0.999).nonzero().flatten().tolist() == [999]


@pytest.mark.parametrize("kept", [2, 8, 64, 100, 1000])
def test_kept_steps_and_their_coefficients(kept: int) -> None:
    schedule, steps = cosine_schedule(kept), reference.process(reference.kept_steps(kept))
    assert schedule.timesteps.tolist() == [step.timestep for step in steps]
    columns = {
        "signal": [math.sqrt(step.alpha_bar) for step in steps],
        "noise": [math.sqrt(1 - step.alpha_bar) for step in steps],
        "previous_signal": [math.sqrt(step.previous) for step in steps],
        "log_beta": [math.log(step.beta) for step in steps],
        "log_posterior_variance": [math.log(step.beta_tilde) for step in steps],
        "clean_weight": [reference.posterior_mean(1.0, 0.0, step) for step in steps],
        "noisy_weight": [reference.posterior_mean(0.0, 1.0, step) for step in steps],
    }
    for name, values in columns.items():
        _assert_same(getattr(schedule, name), torch.tensor(values, dtype=F64), 1e-10)


def test_a_single_step_is_the_last_one() -> None:
    assert cosine_schedule(1).timesteps.tolist() == [999]
    assert all(value.isfinite().all() for value in cosine_schedule(1))


@pytest.mark.parametrize("kept", [0, 1001])
def test_other_numbers_of_steps_are_refused(kept: int) -> None:
    with pytest.raises(ValueError, match=rf"in \[1, 1000\], got {kept}"):
        cosine_schedule(kept)


def test_coefficients_of_small_steps_keep_their_precision_in_float32() -> None:
    at = WHOLE.at(torch.tensor([0]), torch.zeros(1, 1))
    assert at.noise.dtype == torch.float32
    assert at.noise.item() == pytest.approx(math.sqrt(1 - reference.alpha_bar(0)), rel=1e-6)


STEPS = [0, 1, 7, 50, 99]


@pytest.fixture(scope="module")
def respaced() -> tuple[DiffusionSchedule, list[reference.Step]]:
    kept = reference.process(reference.kept_steps(100))
    return cosine_schedule(100).at(torch.tensor(STEPS), torch.zeros(1, dtype=F64)), [kept[i] for i in STEPS]


Respaced = tuple[DiffusionSchedule, list[reference.Step]]


def test_a_ddpm_step_is_the_formula(respaced: Respaced) -> None:
    at, steps = respaced
    x, eps, v, noise = (_normal(name, 5, 4) for name in ("x", "eps", "v", "noise"))
    log_variance = diffusion.learned_log_variance(v, at)
    _assert_same(log_variance, _apply(reference.log_variance, v, steps=steps), 1e-12)
    expected = _apply(reference.ddpm_step, x, eps, log_variance, noise, steps=steps)
    _assert_same(diffusion.ancestral_step(x, eps, log_variance, noise, at), expected)


def test_a_ddim_step_is_the_formula(respaced: Respaced) -> None:
    at, steps = respaced
    x, eps = _normal("x", 5, 4), _normal("eps", 5, 4)
    _assert_same(diffusion.ddim_step(x, eps, at), _apply(reference.ddim_step, x, eps, steps=steps))


def test_steps_of_diffusers_are_the_same() -> None:
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    settings = {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "linspace", "clip_sample": False}
    scheduler = diffusers.DDPMScheduler(1000, variance_type="learned_range", **settings)
    scheduler.set_timesteps(100)
    x, eps, v = (_normal(name, 1, 4).float() for name in ("x", "eps", "v"))
    for step in (98, 50, 0):
        at = cosine_schedule(100).at(torch.tensor([step]), x)
        made = scheduler.step(
            torch.cat([eps, v], 1), int(at.timesteps), x, generator=torch.Generator().manual_seed(0)
        ).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        ours = diffusion.ancestral_step(x, eps, diffusion.learned_log_variance(v, at), noise, at)
        torch.testing.assert_close(ours, made, rtol=1e-3, atol=1e-3)


def test_the_variational_bound_is_the_formula_in_both_branches() -> None:
    """Rows of the first step have values inside, above and below the range of an image, and impossible ones."""
    timesteps = [0, 0, 0, 1, 2, 300, 998]
    whole = reference.process(list(range(1000)))
    at = WHOLE.at(torch.tensor(timesteps), torch.zeros(1, dtype=F64))
    clean, eps, v = (_normal(name, 7, 6) for name in ("clean", "noise", "v"))
    clean[0], clean[1] = torch.linspace(-0.9, 0.9, 6), torch.tensor([1.0, -1.0, 2.0, -2.0, 0.9991, -0.9991])
    noise = eps + 0.02 * _normal("error", 7, 6)
    noise[2] += 50.0
    noisy = diffusion.add_noise(clean, eps, at)
    expected = _apply(reference.variational, clean, noisy, noise, v, steps=[whole[t] for t in timesteps]).mean(1)
    _assert_same(diffusion.variational_bound(clean, noisy, noise, v, at), expected, 1e-7)


def test_only_the_variance_has_a_gradient() -> None:
    at = WHOLE.at(torch.tensor([0, 3, 800]), torch.zeros(1, dtype=F64))
    clean, eps = _normal("clean", 3, 4), _normal("eps", 3, 4)
    predicted, v = _normal("predicted", 3, 4).requires_grad_(), _normal("v", 3, 4).requires_grad_()
    bound = diffusion.variational_bound(clean, diffusion.add_noise(clean, eps, at), predicted, v, at)
    by_predicted, by_v = torch.autograd.grad(bound.sum(), [predicted, v], allow_unused=True)
    assert by_predicted is None
    assert (by_v.abs().amax(1) > 0).all()


def _exact(clean: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, None]]:
    def network(noisy: Tensor, timesteps: Tensor) -> tuple[Tensor, None]:
        at = WHOLE.at(timesteps, noisy)
        return (noisy - at.signal * clean) / at.noise, None

    return network


@pytest.mark.parametrize("steps", [1, 8, 100])
def test_ddim_with_an_exact_network_returns_the_samples(steps: int) -> None:
    clean = _normal("clean", 3, 4)
    made = diffusion.sample(_exact(clean), _normal("start", 3, 4), cosine_schedule(steps))
    _assert_same(made, clean)


def test_ddpm_with_an_exact_network_returns_the_samples() -> None:
    """The last step adds no noise."""
    clean, generator = _normal("clean", 3, 4), seeded_generator(0, "steps")
    draw = lambda: torch.randn(3, 4, generator=generator, dtype=F64)  # noqa: E731
    _assert_same(diffusion.sample(_exact(clean), _normal("start", 3, 4), cosine_schedule(100), draw), clean)


def test_ddpm_with_the_network_of_a_known_distribution_samples_from_it() -> None:
    """Of N(2, 0.25) the best prediction of the noise is linear."""
    mean, deviation = 2.0, 0.5

    def network(noisy: Tensor, timesteps: Tensor) -> tuple[Tensor, None]:
        at = WHOLE.at(timesteps, noisy)
        variance = (at.signal * deviation).square() + at.noise.square()
        return at.noise * (noisy - at.signal * mean) / variance, None

    generator = seeded_generator(0, "steps")
    draw = lambda: torch.randn(4000, 1, generator=generator, dtype=F64)  # noqa: E731
    made = diffusion.sample(network, _normal("start", 4000, 1), cosine_schedule(100), draw)
    assert made.mean().item() == pytest.approx(mean, abs=0.03)
    assert made.std().item() == pytest.approx(deviation, abs=0.03)


def test_the_learned_variance_is_used_by_the_sampler() -> None:
    start, seen = _normal("start", 2, 3), []
    for v in (-1.0, 1.0, None):
        generator = seeded_generator(0, "steps")
        draw = lambda: torch.randn(2, 3, generator=generator, dtype=F64)  # noqa: B023, E731
        network = lambda x, t: (x, None if v is None else torch.full_like(x, v))  # noqa: B023, E731
        seen.append(diffusion.sample(network, start, cosine_schedule(4), draw))
    assert torch.equal(seen[0], seen[2])
    assert not torch.allclose(seen[0], seen[1])
