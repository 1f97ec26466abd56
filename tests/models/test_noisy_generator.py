"""The generator of NAYER against a transcription, and the reset of layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_condkd.models import ConvGenerator, NoisyGenerator
from lightning_condkd.models.noisy_generator import reset_layers
from lightning_condkd.randomness import seeded_generator, seeded_initialization
from tests.reference import nayer as reference

CLASSES, LABELS = 3, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 2, 0])


def _generator(norm: str = "batch") -> NoisyGenerator:
    with seeded_initialization(seeded_generator(0, "noisy")):
        decoder = ConvGenerator((1, 8, 8), latent_size=6, width=2, norm=norm)  # type: ignore[arg-type]
        generator = NoisyGenerator(decoder, batch_size=11, chunk_size=CLASSES, vector_size=5, noise_size=6)
    with torch.no_grad():
        generator.norm.weight.uniform_(0.5, 2.0, generator=seeded_generator(0, "scale"))
        generator.norm.bias.normal_(generator=seeded_generator(0, "offset"))
    return generator.double()


VECTORS = torch.randn(CLASSES, 5, generator=seeded_generator(0, "vectors"), dtype=torch.float64)


def test_images_are_those_of_the_transcription() -> None:
    generator = _generator()
    expected = reference.images(dict(generator.named_parameters()), VECTORS, LABELS, CLASSES, size=8)
    assert len(generator.noisy) == 4
    torch.testing.assert_close(generator(VECTORS[LABELS]), expected, rtol=0, atol=1e-12)


def test_images_of_a_class_in_two_chunks_differ_and_in_one_chunk_do_not() -> None:
    images = _generator("none")(VECTORS[LABELS])
    assert not torch.allclose(images[0], images[3])
    torch.testing.assert_close(images[9], _generator("none")(VECTORS[LABELS])[9])
    same = _generator("none")(VECTORS[torch.zeros(11, dtype=torch.long)])
    assert torch.equal(same[0], same[2])


@pytest.mark.parametrize("world_size", [2, 5])
def test_ranks_render_their_rows_of_the_global_batch(world_size: int) -> None:
    generator = _generator("none")
    whole = generator(VECTORS[LABELS])
    for rank in range(world_size):
        part = generator(VECTORS[LABELS], slice(rank, None, world_size))
        torch.testing.assert_close(part, whole[rank::world_size], rtol=0, atol=1e-14)


def test_every_layer_is_reached_on_a_rank_without_rows_of_a_chunk() -> None:
    """The fourth of five ranks has no row of the fourth chunk; a missing gradient would look like an unused layer."""
    generator = _generator("none")
    generator(VECTORS[LABELS], slice(3, None, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())
    assert not bool(generator.noisy[3].weight.grad.any())


def test_noise_is_drawn_standard_normal_from_its_generator() -> None:
    generator = NoisyGenerator(nn.Identity(), batch_size=4, chunk_size=2, vector_size=100, noise_size=100)
    decoder_untouched = generator.norm.weight.clone()
    generator.draw_noise(seeded_generator(0, "noise"))
    first, second = (layer.weight.detach().clone() for layer in generator.noisy)
    assert abs(float(first.mean())) < 0.05
    assert abs(float(first.std()) - 1) < 0.02
    assert not torch.equal(first, second)
    assert all(not bool(layer.bias.any()) for layer in generator.noisy)
    assert torch.equal(generator.norm.weight, decoder_untouched)
    generator.draw_noise(seeded_generator(0, "noise"))
    assert torch.equal(generator.noisy[0].weight, first)


def test_layers_are_reset_in_place_as_new_ones() -> None:
    network = nn.Sequential(nn.Linear(50, 40), nn.BatchNorm1d(40))
    parameters = list(network.parameters())
    network(torch.randn(20, 50) + 3)
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(9.0)
    state = torch.random.get_rng_state()
    reset_layers(network, seeded_generator(0, "reset"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(one is other for one, other in zip(parameters, network.parameters(), strict=True))
    assert 0.9 < float(network[0].weight.abs().max()) * 50**0.5 <= 1  # kaiming_uniform(a = sqrt 5), as torch does
    assert network[1].weight.eq(1).all()
    assert not bool(network[1].running_mean.any())


def test_a_layer_that_cannot_be_reset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no reset_parameters\(\) resets 1.0: write it"):
        reset_layers(nn.Sequential(nn.Linear(2, 2), nn.ParameterList([torch.ones(2)])), seeded_generator(0, "reset"))


def test_stages_of_the_decoder_can_be_given() -> None:
    generator = ConvGenerator((3, 64, 64), latent_size=4, width=2, stages=2)
    assert generator.project.out_features == 4 * 16 * 16
    assert generator(torch.randn(2, 4)).shape == (2, 3, 64, 64)
    assert ConvGenerator((3, 64, 64), latent_size=4, width=2).project.out_features == 4 * 8 * 8
