from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from lightning_condkd.alignment import (
    ACGANDiscriminator,
    Discriminator,
    ProjectionDiscriminator,
    UnconditionalDiscriminator,
)
from lightning_condkd.randomness import seeded_generator

KINDS = [ACGANDiscriminator, ProjectionDiscriminator, UnconditionalDiscriminator]
SIZE, CLASSES = 6, 5


def _built(kind: type[Discriminator], seed: int = 0) -> Discriminator:
    discriminator = kind(hidden=(16, 8))
    discriminator.build(SIZE, CLASSES, seeded_generator(seed, "discriminator"))
    return discriminator


def _batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(7, SIZE, generator=seeded_generator(0, "batch")).to(dtype), torch.arange(7) % CLASSES


def _leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_follow_the_formulas(kind: type[Discriminator]) -> None:
    discriminator = _built(kind).double().eval()
    embedding, labels = _batch(torch.float64)
    hidden = embedding
    for layer in (discriminator.body[0], discriminator.body[2]):
        hidden = _leaky(hidden @ layer.weight.T + layer.bias)
    realness = hidden @ discriminator.realness.weight[0] + discriminator.realness.bias
    output = discriminator(embedding, labels)
    if isinstance(discriminator, ProjectionDiscriminator):
        inner = [h @ discriminator.label_embedding.weight[y] for h, y in zip(hidden, labels, strict=True)]
        realness = realness + torch.stack(inner)
    torch.testing.assert_close(output.realness, realness, rtol=0, atol=1e-12)
    if isinstance(discriminator, ACGANDiscriminator):
        expected = hidden @ discriminator.class_head.weight.T + discriminator.class_head.bias
        torch.testing.assert_close(output.class_logits, expected, rtol=0, atol=1e-12)
    else:
        assert output.class_logits is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_map_has_unit_spectral_norm(kind: type[Discriminator]) -> None:
    discriminator = _built(kind).double()
    for _ in range(100):
        discriminator(*_batch(torch.float64))
    discriminator.eval()
    maps = [m for m in discriminator.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Embedding))]
    assert len(maps) == (3 if kind is UnconditionalDiscriminator else 4)
    for module in maps:
        assert is_parametrized(module, "weight")
        assert torch.linalg.matrix_norm(module.weight, 2).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_build_is_decided_by_its_generator_alone(kind: type[Discriminator]) -> None:
    before = torch.get_rng_state()
    first = _built(kind).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        torch.rand(3)
        second = _built(kind).state_dict()
    other = _built(kind, seed=1).state_dict()
    assert any(name.endswith("_u") for name in first)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert not torch.equal(value, other[name]), name


def test_build_draws_on_the_cpu_whatever_the_default_device() -> None:
    with torch.device("meta"):
        on_meta = _built(ProjectionDiscriminator).state_dict()
    for name, value in _built(ProjectionDiscriminator).state_dict().items():
        assert torch.equal(value, on_meta[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trip_continues_bit_for_bit(kind: type[Discriminator]) -> None:
    original = _built(kind)
    for _ in range(3):
        original(*_batch())
    state = deepcopy(original.state_dict())
    resumed = _built(kind, seed=1)
    resumed.load_state_dict(state)
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, state[name]), name
    for _ in range(3):
        for ours, theirs in zip(original(*_batch()), resumed(*_batch()), strict=True):
            assert ours is theirs is None or torch.equal(ours, theirs)
    assert any(not torch.equal(value, state[name]) for name, value in original.state_dict().items() if "_u" in name)


def test_evaluation_does_not_advance_the_power_iteration() -> None:
    discriminator = _built(ACGANDiscriminator).eval()
    state = deepcopy(discriminator.state_dict())
    discriminator(*_batch())
    assert all(torch.equal(value, state[name]) for name, value in discriminator.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_nothing(kind: type[Discriminator]) -> None:
    discriminator = _built(kind).eval()
    embedding, labels = _batch(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = discriminator(embedding, labels)
    for ours, theirs in zip(under_autocast, discriminator(embedding.float(), labels), strict=True):
        assert ours is theirs is None or torch.equal(ours, theirs)


def test_only_the_projection_looks_at_labels() -> None:
    embedding, labels = _batch()
    for kind in KINDS:
        discriminator = _built(kind).eval()
        same = torch.equal(discriminator(embedding, labels).realness, discriminator(embedding, labels.flip(0)).realness)
        assert same is (kind is not ProjectionDiscriminator)


def test_a_second_build_replaces_the_layers() -> None:
    discriminator = _built(ACGANDiscriminator)
    discriminator.build(3, 2, seeded_generator(0, "discriminator"))
    assert discriminator(torch.zeros(1, 3), torch.tensor([1])).class_logits.shape == (1, 2)


def test_use_before_build_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"ProjectionDiscriminator: .* call build\("):
        ProjectionDiscriminator()(*_batch())


@pytest.mark.parametrize("hidden", [(), (8, 0)])
def test_hidden_without_a_width_is_refused(hidden: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="hidden: expected at least one positive width"):
        UnconditionalDiscriminator(hidden)
