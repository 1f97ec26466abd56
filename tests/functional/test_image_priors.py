from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional.inversion import ImageNorm, TotalVariation, image_norm, total_variation
from lightning_condkd.randomness import seeded_generator
from tests.reference import deep_inversion as reference


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 2, 4, 5, generator=seeded_generator(0, "images"), dtype=torch.float64).requires_grad_()


def _assert_same(ours: Tensor, theirs: Tensor, images: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(loss, images)[0] for loss in (ours, theirs)]
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["l2", "l1"])
def test_total_variation_follows_the_formula(images: Tensor, form: TotalVariation) -> None:
    _assert_same(total_variation(images, form), reference.total_variation(images, form), images)


@pytest.mark.parametrize("form", ["batch", "image"])
def test_image_norm_follows_the_formula(images: Tensor, form: ImageNorm) -> None:
    _assert_same(image_norm(images, form), reference.image_norm(images, form), images)


def test_total_variation_of_a_constant_image_and_its_gradient_are_zero() -> None:
    flat = torch.full((2, 3, 4, 4), 0.7, requires_grad=True)
    for value in (total_variation(flat, "l2"), total_variation(flat, "l1")):
        assert value == 0
        assert torch.equal(torch.autograd.grad(value, flat)[0], torch.zeros_like(flat))


def test_total_variation_sees_neither_brightness_nor_mirroring(images: Tensor) -> None:
    for form in ("l2", "l1"):
        value = total_variation(images, form)  # type: ignore[arg-type]
        torch.testing.assert_close(total_variation(images + 3, form), value)  # type: ignore[arg-type]
        torch.testing.assert_close(total_variation(images.flip(3), form), value)  # type: ignore[arg-type]
        torch.testing.assert_close(total_variation(2 * images, form), 2 * value)  # type: ignore[arg-type]


def test_only_the_means_do_not_grow_with_the_batch(images: Tensor) -> None:
    doubled = torch.cat([images, images])
    torch.testing.assert_close(total_variation(doubled, "l1"), total_variation(images, "l1"))
    torch.testing.assert_close(image_norm(doubled, "image"), image_norm(images, "image"))
    torch.testing.assert_close(total_variation(doubled, "l2"), 2**0.5 * total_variation(images, "l2"))
    torch.testing.assert_close(image_norm(doubled, "batch"), 2**0.5 * image_norm(images, "batch"))


def test_the_norm_of_black_images_has_no_gradient() -> None:
    black = torch.zeros(2, 1, 3, 3, requires_grad=True)
    for form in ("batch", "image"):
        (gradient,) = torch.autograd.grad(image_norm(black, form), black)  # type: ignore[arg-type]
        assert torch.equal(gradient, torch.zeros_like(black))


def test_half_precision_is_summed_in_float32() -> None:
    images = torch.full((4, 3, 64, 64), 30.0, dtype=torch.float16)
    images[..., ::2] = 0
    assert image_norm(images).dtype == total_variation(images).dtype == torch.float32
    assert bool(image_norm(images).isfinite())


def test_unknown_forms_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="expected 'l2' or 'l1', got 'huber'"):
        total_variation(images, "huber")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 'batch' or 'image', got 'mean'"):
        image_norm(images, "mean")  # type: ignore[arg-type]
