from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_condkd.models.encoder import Encoder
from lightning_condkd.randomness import seeded_generator, seeded_initialization


def test_parameter_count_of_the_published_encoder() -> None:
    convolutions = [3 * 64 * 9 + 64, 64 * 128 * 9 + 128, 128 * 128 * 9 + 128]
    parts = [*convolutions, 2 * 64, 2 * 128, 2 * 128, 2 * (2048 * 1000 + 1000)]
    assert sum(p.numel() for p in Encoder((3, 32, 32)).parameters()) == sum(parts) == 4_321_872


@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((3, 64, 64), (8, 8)),
        ((3, 32, 32), (4, 4)),
        ((1, 28, 28), (7, 7)),
        ((3, 16, 16), (4, 4)),
        ((1, 8, 8), (4, 4)),
        ((1, 9, 13), (5, 7)),
        ((3, 33, 70), (4, 9)),
        ((1, 4, 4), (2, 2)),
    ],
)
def test_maps_shrink_by_eight_but_not_below_four_pixels(shape: tuple[int, int, int], side: tuple[int, int]) -> None:
    encoder = Encoder(shape, latent_size=5, width=4)
    mean, log_variance = encoder(torch.rand(2, *shape))
    assert mean.shape == log_variance.shape == (2, 5)
    assert encoder.to_mean.in_features == 4 * side[0] * side[1]
    (mean.sum() + log_variance.square().sum()).backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_the_contrast_of_a_column_is_lost() -> None:
    """Every column of a channel is divided by its norm, in the units of the teacher's normalisation."""
    with seeded_initialization(seeded_generator(0, "encoder")):
        encoder = Encoder((2, 8, 8), mean=(0.5, 0.25), std=(0.5, 0.5), latent_size=5, width=4).eval()
    offset = torch.tensor([0.5, 0.25]).view(-1, 1, 1)
    images = torch.rand(3, 2, 8, 8, generator=seeded_generator(0, "images"))
    stretched = images.clone()
    stretched[1, 0, :, 2] = 3 * (images[1, 0, :, 2] - 0.5) + 0.5
    torch.testing.assert_close(encoder(stretched), encoder(images))
    rows = images.clone()
    rows[1, 0, 2] = 3 * (images[1, 0, 2] - 0.5) + 0.5
    assert not torch.allclose(encoder(rows)[0], encoder(images)[0])
    bare = Encoder((2, 8, 8), latent_size=5, width=4).eval()
    bare.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(bare((images - offset) / 0.5), encoder(images))


def test_eps_of_the_official_code_is_that_of_the_first_two_layers() -> None:
    layers = [m for m in Encoder((1, 8, 8), width=4, bn_eps=0.8).modules() if isinstance(m, nn.BatchNorm2d)]
    assert [layer.eps for layer in layers] == [0.8, 0.8, 1e-5]
