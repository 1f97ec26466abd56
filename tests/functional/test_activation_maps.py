from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_condkd.functional.activation_maps import class_activation_maps, gradient_weighted_maps
from lightning_condkd.randomness import seeded_generator
from tests.reference import feature_losses as reference


def _random(purpose: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=seeded_generator(0, purpose), dtype=torch.float64)


def test_class_activation_maps_are_the_formula_and_their_means_the_logits() -> None:
    maps, weight = _random("maps", 2, 3, 4, 5), _random("weight", 6, 3)
    ours = class_activation_maps(maps, weight)
    torch.testing.assert_close(ours, reference.activation_maps(maps, weight), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.mean((2, 3)), maps.mean((2, 3)) @ weight.T)


def test_gradient_weighted_maps_are_the_formula_and_their_weights_constants() -> None:
    maps = _random("maps", 2, 3, 4, 4).requires_grad_()
    layer = nn.Linear(6, 5).double()
    logits = layer(torch.cat([maps.square().mean((2, 3)), maps.mean((2, 3))], dim=1))
    (ours,) = gradient_weighted_maps(logits, torch.tensor([4, 1]), [maps])
    theirs = reference.gradient_weighted(logits, [4, 1], maps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(ours.sum(), maps)
    assert gradient.std((2, 3)).abs().max() == 0  # the same weight everywhere: no second order
    assert layer.weight.grad is None


def test_half_precision_is_summed_in_single() -> None:
    maps = torch.full((1, 4, 2, 2), 6e4, dtype=torch.float16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cams = class_activation_maps(maps, torch.ones(2, 4, dtype=torch.float16))
    assert cams.dtype == torch.float32
    assert (cams == 4 * torch.tensor(6e4).half().float()).all()
    (weighted,) = gradient_weighted_maps(maps.mean((2, 3)) / 4, torch.tensor([0]), [maps])
    assert weighted.dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected maps \(N, 2, H, W\) .* got \(1, 3, 4, 4\): name the map"):
        class_activation_maps(torch.zeros(1, 3, 4, 4), torch.zeros(5, 2))
    maps = torch.zeros(1, 2, 1, 1)
    with pytest.raises(ValueError, match="expected logits with a graph to the maps"):
        gradient_weighted_maps(maps.flatten(1), torch.tensor([0]), [maps])
