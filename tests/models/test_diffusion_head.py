from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.models.diffusion_head import DiffusionHead
from lightning_condkd.randomness import seeded_generator, seeded_initialization
from tests.reference import gendd as reference

TIMESTEPS, PLACES = torch.tensor([0, 3, 500, 999, 3]), torch.tensor([0, 1, 2, 0, 1])
GENERATOR = seeded_generator(0, "inputs")
NOISY, CONDITION = (torch.randn(5, size, generator=GENERATOR, dtype=torch.float64) for size in (4, 6))


def _head(**arguments: bool) -> DiffusionHead:
    with seeded_initialization(seeded_generator(0, "head")):
        return DiffusionHead(4, 3, 6, width=8, depth=2, **arguments)


def _trained(**arguments: bool) -> DiffusionHead:
    """Return a head none of whose layers is zero."""
    head, generator = _head(**arguments).double(), seeded_generator(0, "trained")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return head


def _whole(head: DiffusionHead, rows: Tensor | slice = slice(None)) -> Tensor:
    noise, interpolation = head(NOISY[rows], TIMESTEPS[rows], PLACES[rows], CONDITION[rows])
    return noise if interpolation is None else torch.cat([noise, interpolation], dim=1)


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_it_is_the_formula(learn_sigma: bool) -> None:
    head = _trained(learn_sigma=learn_sigma)
    weights = head.state_dict()
    rows = zip(NOISY, TIMESTEPS.tolist(), PLACES.tolist(), CONDITION, strict=True)
    expected = torch.stack([reference.head(weights, 2, *row) for row in rows])
    assert expected.shape == (5, 8 if learn_sigma else 4)
    torch.testing.assert_close(_whole(head), expected, rtol=0, atol=1e-10)


def test_a_new_head_returns_zero() -> None:
    assert not _whole(_head().double()).any()


def test_the_first_weights_are_the_published_ones() -> None:
    head = DiffusionHead(64, 8, 512)
    zero = {"output", "modulation.1", *(f"blocks.{b}.modulation.1" for b in range(3))}
    for name, layer in head.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        assert not layer.bias.any()
        if name in zero:
            assert not layer.weight.any()
        elif name.startswith("time"):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        else:
            bound = (6 / sum(layer.weight.shape)) ** 0.5
            assert 0.99 * bound < layer.weight.abs().max().item() <= bound
    assert head.place.weight.std().item() == pytest.approx(1.0, rel=0.05)


def test_the_published_size_has_20_million_parameters() -> None:
    assert sum(p.numel() for p in DiffusionHead(64, 8, 512).parameters()) == pytest.approx(20e6, rel=0.05)


def test_rows_do_not_see_each_other() -> None:
    head, order = _trained(), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(_whole(head, order), _whole(head)[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("index", range(4))
def test_every_input_counts(index: int) -> None:
    head, inputs = _trained(), [NOISY, TIMESTEPS, PLACES, CONDITION]
    changed = [value.flip(0) if i == index else value for i, value in enumerate(inputs)]
    assert not torch.allclose(head(*inputs)[0], head(*changed)[0])
