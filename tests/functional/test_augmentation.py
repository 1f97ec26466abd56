import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.functional import augmentation as operators

SHAPES = [(4, 3, 8, 8), (5, 1, 7, 9), (3, 2, 2, 6)]


def sliced(image: Tensor, down: int, right: int, fill: float) -> Tensor:
    """The window moved by slices, as a reference: output[i, j] = input[i + down, j + right]."""
    height, width = image.shape[1:]
    out = torch.full_like(image, fill)
    rows = slice(max(0, -down), max(0, min(height, height - down)))
    columns = slice(max(0, -right), max(0, min(width, width - right)))
    out[:, rows, columns] = image[:, rows.start + down : rows.stop + down, columns.start + right : columns.stop + right]
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_shift_moves_pixels_exactly(shape: tuple[int, ...], dtype: torch.dtype, fill: float) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    offset = torch.randint(-4, 5, (shape[0], 2), generator=torch.Generator().manual_seed(1))
    expected = torch.stack([sliced(x, int(d), int(r), fill) for x, (d, r) in zip(images, offset, strict=True)])
    assert torch.equal(operators.shift(images, offset, fill), expected)
    mirrored = torch.arange(shape[0]) % 2 == 0
    both = operators.shift(images, offset, fill, mirrored)
    assert torch.equal(both, operators.flip(expected, mirrored))


def test_flip_mirrors_only_the_chosen_images() -> None:
    images = torch.rand(2, 1, 3, 3)
    flipped = operators.flip(images, torch.tensor([True, False]))
    assert torch.equal(flipped[0], images[0].flip(-1))
    assert torch.equal(flipped[1], images[1])


def test_translate_reaches_every_offset_and_no_more() -> None:
    images = torch.zeros(100, 1, 8, 8)
    images[:, :, 4, 4] = 1
    positions = torch.linspace(0, 1 - 1e-6, 10)
    moved = operators.translate(images, torch.cartesian_prod(positions, positions), 0.125, 0.0)
    assert {tuple(place) for place in moved[:, 0].nonzero()[:, 1:].tolist()} == {
        (row, column) for row in (3, 4, 5) for column in (3, 4, 5)
    }


@pytest.mark.parametrize(("position", "rows"), [(0.0, [0, 1]), (0.5, [2, 3, 4, 5]), (0.999, [6, 7])])
def test_cutout_covers_a_rectangle_that_may_overhang(position: float, rows: list[int]) -> None:
    covered = operators.cutout(torch.ones(1, 3, 8, 8), torch.full((1, 2), position), 0.5, 0.25)
    expected = torch.ones(1, 3, 8, 8)
    expected[:, :, rows[0] : rows[-1] + 1, rows[0] : rows[-1] + 1] = 0.25
    assert torch.equal(covered, expected)


def test_color_follows_the_published_formulas() -> None:
    images = 3 * torch.rand(2, 3, 4, 4, dtype=torch.float64) - 1
    brightness, saturation, contrast = (torch.tensor(v) for v in ([0.1, -0.2], [0.0, 1.5], [0.5, 1.2]))
    for n, image in enumerate(images):
        x = image + brightness[n].double()
        gray = (x[0] + x[1] + x[2]) / 3
        x = (x - gray) * saturation[n].double() + gray
        x = (x - x.mean()) * contrast[n].double() + x.mean()
        actual = operators.color(images, brightness, saturation, contrast)[n]
        assert torch.allclose(actual, x, rtol=0, atol=1e-12)


def test_color_of_one_channel_has_no_saturation() -> None:
    images, one = torch.arange(32.0).view(2, 1, 4, 4) / 32, torch.ones(1)  # their means and differences are exact
    assert torch.equal(operators.color(images, 0 * one, 0 * one, one), images)


@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_affine_equals_affine_grid(fill: float) -> None:
    images = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    turn = torch.tensor(0.2)
    linear = torch.stack(
        [torch.tensor([[turn.cos(), turn.sin()], [-turn.sin(), turn.cos()]]), torch.diag(torch.tensor([0.9, 1.1]))]
    )
    inverse = F.pad(linear.double().inverse(), (0, 1))
    grid = F.affine_grid(inverse, [2, 3, 9, 9], align_corners=False)
    expected = F.grid_sample(images - fill, grid, align_corners=False) + fill
    assert torch.allclose(operators.affine(images, linear, fill), expected, rtol=0, atol=1e-6)


def test_affine_identity_keeps_oblong_images() -> None:
    images = torch.rand(2, 1, 6, 11, dtype=torch.float64)
    assert torch.allclose(operators.affine(images, torch.eye(2)[None], 0.5), images, rtol=0, atol=1e-12)
