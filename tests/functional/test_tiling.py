from __future__ import annotations

from functools import partial

import pytest
import torch

from lightning_condkd.functional.tiling import frame, shrink, tile
from lightning_condkd.randomness import seeded_generator
from tests.reference import selection as reference


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_tiles_lie_where_a_loop_over_pixels_puts_them(factor: int) -> None:
    images = torch.arange(2.0 * factor**2 * 6).view(-1, 1, 2, 3)
    expected = reference.tile(images[:, 0].tolist(), factor)
    assert tile(images, factor)[:, 0].tolist() == expected


def test_tiles_keep_the_channels() -> None:
    images = torch.rand(8, 3, 2, 2, generator=seeded_generator(0, "images"))
    single = partial(tile, factor=2)
    assert torch.equal(single(images), torch.cat([single(images[:, c : c + 1]) for c in range(3)], dim=1))


def test_small_images_keep_what_large_ones_show_and_lie_in_the_middle_of_a_frame() -> None:
    images = torch.rand(2, 3, 4, 6, generator=seeded_generator(0, "images"), dtype=torch.float64)
    small = shrink(images.repeat_interleave(4, 2).repeat_interleave(4, 3), 4)
    assert torch.equal(shrink(images, 1), images)
    torch.testing.assert_close(small.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=0.02)
    torch.testing.assert_close(small, images, rtol=0, atol=0.3)
    color = torch.tensor([2.0, 3.0, 4.0])
    framed = frame(images, (9, 8), color)
    assert torch.equal(framed[:, :, 2:6, 1:7], images)
    rest = framed.sum((2, 3)) - images.sum((2, 3))
    torch.testing.assert_close(rest, (9 * 8 - 4 * 6) * color.double().expand(2, 3))
