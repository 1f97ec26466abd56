"""Where pixels come from does not depend on the precision around it: autocast, half defaults, half images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.augment import Augment, CropFlip, DifferentiableAugment, ResizedCrop, RollFlip, SiameseAugment
from lightning_condkd.condensation import RealismSelection
from lightning_condkd.functional import augmentation as operators
from lightning_condkd.functional.cutmix import cutmix
from lightning_condkd.functional.tiling import frame, shrink, tile
from lightning_condkd.models import Observer

SIDES = [64, 224]
AUGMENTS: dict[str, Augment] = {
    **{name: SiameseAugment(name) for name in ("color", "crop", "cutout", "flip", "scale", "rotate")},
    "policy": DifferentiableAugment(("color", "translation", "cutout", "flip")),
    "shift": CropFlip(),
    "roll": RollFlip(shared=False),
    "resized crop": ResizedCrop(),
}
MOSAICS: dict[str, Callable[[Tensor], Tensor]] = {
    "tile": lambda images: tile(images, 2),
    "shrink": lambda images: shrink(images, 2),
    "frame": lambda images: frame(images, (240, 240), torch.tensor([0.1])),
    "cutmix": lambda images: cutmix(images, torch.tensor([1, 2, 3, 0]), 0.37, (0.3, 0.7))[0],
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_gradient(call: Callable[[Tensor], Tensor], side: int) -> tuple[Tensor, Tensor]:
    images = torch.rand(4, 1, side, side, generator=seeded()).requires_grad_()
    result = call(images)
    (gradient,) = torch.autograd.grad(result.square().sum(), images)
    return result.detach(), gradient


def assert_autocast_changes_nothing(call: Callable[[Tensor], Tensor], side: int) -> None:
    plain = with_gradient(call, side)
    with torch.autocast("cpu", torch.bfloat16):
        cast = with_gradient(call, side)
    assert cast[0].dtype == torch.float32
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(cast, plain, strict=True))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", AUGMENTS)
def test_augmentations_are_the_same_under_autocast(name: str, side: int) -> None:
    augment = AUGMENTS[name]
    assert_autocast_changes_nothing(lambda images: augment(images, augment.sample(4, seeded(1))), side)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MOSAICS)
def test_mosaics_and_boxes_are_the_same_under_autocast(name: str, side: int) -> None:
    assert_autocast_changes_nothing(MOSAICS[name], side)


class Float32(nn.Module):
    """A classifier that autocast leaves alone, so that the choice depends on the crops only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.linear(nn.functional.adaptive_avg_pool2d(images, 8).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("side", SIDES)
def test_crops_chosen_by_realism_are_the_same_under_autocast(side: int) -> None:
    teacher = Observer(Float32()).freeze()
    images = torch.rand(6, 1, side, side, generator=seeded())

    def chosen() -> Tensor:
        return RealismSelection(factor=2).select(images, label=0, count=1, teacher=teacher, generator=seeded(1))

    plain = chosen()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(chosen(), plain)


@pytest.fixture
def half_default() -> Iterator[None]:
    """What a trainer of precision bf16-true does around a step."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.usefixtures("half_default")
def test_a_half_default_dtype_moves_nothing(name: str) -> None:
    augment, images = AUGMENTS[name], torch.rand(4, 1, 150, 150, generator=seeded(), dtype=torch.float32)
    in_half = copy.copy(augment.sample(4, seeded(1)))
    moved = augment(images, in_half)
    torch.set_default_dtype(torch.float32)
    parameters = augment.sample(4, seeded(1))
    assert all(torch.equal(in_half[key], parameters[key]) for key in parameters)
    assert torch.equal(moved, augment(images, parameters))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_images_are_moved_to_the_same_places(dtype: torch.dtype) -> None:
    images = torch.rand(2, 1, 224, 224, generator=seeded()).to(dtype)
    for name in ("scale", "rotate"):
        augment = AUGMENTS[name]
        parameters = augment.sample(2, seeded(1))
        assert torch.equal(augment(images, parameters), augment(images.float(), parameters).to(dtype))


def test_affine_of_one_row_or_one_column_is_finite() -> None:
    for shape in ((1, 1, 1, 5), (1, 1, 5, 1), (1, 1, 1, 1)):
        images = torch.rand(shape, generator=seeded())
        assert torch.allclose(operators.affine(images, torch.eye(2)[None], 0.5), images, atol=1e-6)
