from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from lightning_condkd.augment import AugmentParameters, ResizedCrop, take
from lightning_condkd.functional import augmentation as operators
from lightning_condkd.randomness import Draw


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(parameters: AugmentParameters, height: int, width: int) -> list[tuple[float, float]]:
    """Height and width in pixels of the first candidate that fits, one image after the other."""
    found = []
    for areas, ratios in zip(parameters["area"].tolist(), parameters["ratio"].tolist(), strict=True):
        pairs = zip(areas, ratios, strict=True)
        sides = [((a * height * width / r) ** 0.5, (a * height * width * r) ** 0.5) for a, r in pairs]
        fitting = [side for side in sides if side[0] <= height and side[1] <= width]
        found.append(fitting[0] if fitting else (min(sides[0][0], height), min(sides[0][1], width)))
    return found


def sampled(
    image: Tensor, top: float, left: float, height: float, width: float, size: tuple[int, int] | None = None
) -> Tensor:
    """Bilinear values at the centres of the stretched pixels, one by one."""
    rows, columns = image.shape[1:]
    high, wide = size or (rows, columns)
    out = image.new_zeros(len(image), high, wide)
    for i in range(high):
        for j in range(wide):
            y = min(max(top + (i + 0.5) * height / high - 0.5, 0), rows - 1)
            x = min(max(left + (j + 0.5) * width / wide - 0.5, 0), columns - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            upper = image[:, y0, x0] * (1 - x + x0) + image[:, y0, x1] * (x - x0)
            lower = image[:, y1, x0] * (1 - x + x0) + image[:, y1, x1] * (x - x0)
            out[:, i, j] = upper * (1 - y + y0) + lower * (y - y0)
    return out


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 9), (2, 4, 12)])
def test_a_crop_is_the_first_fitting_box_stretched_and_mirrored(shape: tuple[int, int, int]) -> None:
    images = torch.rand(6, *shape, generator=seeded(), dtype=torch.float64)
    augment, (height, width) = ResizedCrop(), shape[1:]
    parameters = augment.sample(6, seeded(1))
    expected = []
    for image, box, place, flip in zip(
        images, boxes(parameters, height, width), parameters["position"].tolist(), parameters["flip"], strict=True
    ):
        crop = sampled(image, (height - box[0]) * place[0], (width - box[1]) * place[1], *box)
        expected.append(crop.flip(-1) if flip else crop)
    torch.testing.assert_close(augment(images, parameters), torch.stack(expected), rtol=0, atol=1e-5)


def test_the_whole_image_is_left_alone() -> None:
    images = torch.randn(3, 3, 8, 8, generator=seeded())
    augment = ResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_probability=0.0)
    torch.testing.assert_close(augment(images, augment.sample(3, seeded())), images)


def test_a_box_on_whole_pixels_is_a_slice_enlarged() -> None:
    images = torch.rand(1, 2, 8, 8, generator=seeded())
    size, position = torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 0.5]])
    inner = operators.resized_crop(images, size, position)[..., 1:-1, 2:-2]  # the rest looks beyond the slice
    slices = F.interpolate(images[:, :, 4:8, 3:5], (8, 8), mode="bilinear")[..., 1:-1, 2:-2]
    torch.testing.assert_close(inner, slices)


def test_areas_and_ratios_fill_their_ranges_and_boxes_fit() -> None:
    parameters = ResizedCrop().sample(2000, seeded())
    sides = torch.tensor(boxes(parameters, 32, 32)) / 32
    area, ratio = sides.prod(1), sides[:, 1] / sides[:, 0]
    assert sides.max() <= 1
    assert 0.25 <= area.min() < 0.26
    assert 0.97 < area.max() <= 1
    assert 0.75 - 1e-5 <= ratio.min() < 0.76
    assert 1.32 < ratio.max() <= 4 / 3 + 1e-5
    assert ratio.log().mean().abs() < 0.01  # as often wide as high
    assert 0.45 < parameters["flip"].float().mean() < 0.55


def test_rows_of_the_global_batch_equal_the_batch_of_the_rows() -> None:
    augment, images = ResizedCrop(), torch.rand(6, 3, 9, 9, generator=seeded())
    whole = augment.view(images, Draw(0, 5), "local view")
    for rank in range(2):
        draw = Draw(0, 5, rank, world_size=2)
        torch.testing.assert_close(augment.view(images[draw.rows], draw, "local view"), whole[draw.rows])
    shared = augment.sample(1, seeded())
    torch.testing.assert_close(augment(images[2:3], shared), augment(images, shared)[2:3])
    assert take(shared, slice(1, None))["area"].shape == (0, 10)


def test_parameters_come_from_the_generator_alone() -> None:
    augment, state = ResizedCrop(), torch.random.get_rng_state()
    first, second, other = augment.sample(8, seeded()), augment.sample(8, seeded()), augment.sample(8, seeded(1))
    assert all(torch.equal(first[name], second[name]) and len(first[name]) == 8 for name in first)
    assert not torch.equal(first["area"], other["area"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_crop_is_differentiable() -> None:
    images = torch.rand(2, 1, 4, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    augment = ResizedCrop()
    parameters = augment.sample(2, seeded(1))
    assert torch.autograd.gradcheck(lambda x: augment(x, parameters), images)


def test_half_precision_samples_where_full_precision_does() -> None:
    images = torch.rand(2, 3, 16, 16, generator=seeded()).bfloat16()
    augment = ResizedCrop()
    parameters = augment.sample(2, seeded(1))
    half = augment(images, parameters)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, augment(images.float(), parameters).bfloat16())


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": (0.5, 0.25)},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 1.5)},
        {"ratio": (2.0, 1.0)},
        {"flip_probability": 2},
        {"size": 0},
        {"size": (4, 0)},
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ResizedCrop(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(4, 4), (5, 12), (16, 3)])
def test_a_crop_may_have_another_size_than_the_image(size: tuple[int, int]) -> None:
    images = torch.rand(4, 2, 9, 7, generator=seeded(), dtype=torch.float64)
    augment = ResizedCrop(scale=(0.05, 1.0), size=size)
    parameters = augment.sample(4, seeded(1))
    crops = augment(images, parameters)
    assert crops.shape == (4, 2, *size)
    for row, ((height, width), place) in enumerate(
        zip(boxes(parameters, 9, 7), parameters["position"].tolist(), strict=True)
    ):
        crop = sampled(images[row], (9 - height) * place[0], (7 - width) * place[1], height, width, size)
        expected = crop.flip(-1) if parameters["flip"][row] else crop
        torch.testing.assert_close(crops[row], expected, rtol=0, atol=1e-5)


def test_another_size_of_the_whole_image_is_bilinear_interpolation() -> None:
    images = torch.rand(2, 3, 8, 8, generator=seeded())
    whole = ResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_probability=0.0, size=5)
    expected = F.interpolate(images, (5, 5), mode="bilinear")
    torch.testing.assert_close(whole(images, whole.sample(2, seeded())), expected)


def test_boxes_have_the_law_of_random_resized_crop() -> None:
    scale, ratio, shape = (0.08, 1.0), (3 / 4, 4 / 3), (40, 60)
    drawn = [RandomResizedCrop.get_params(torch.empty(1, *shape), list(scale), list(ratio)) for _ in range(3000)]
    theirs = torch.tensor(drawn, dtype=torch.float64)[:, 2:]
    parameters = ResizedCrop(scale, ratio).sample(3000, seeded())
    ours = torch.tensor(boxes(parameters, *shape), dtype=torch.float64)
    for sides in (lambda s: s.prod(1) / 2400, lambda s: (s[:, 1] / s[:, 0]).log()):
        quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
        torch.testing.assert_close(
            sides(ours).quantile(quantiles), sides(theirs).quantile(quantiles), rtol=0, atol=0.04
        )
