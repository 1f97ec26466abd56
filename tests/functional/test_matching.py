from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional.matching import (
    GradientDistance,
    class_means,
    gradient_distance,
    mean_embedding_distance,
)
from lightning_condkd.randomness import seeded_generator
from tests.reference import matching as reference

CLASSES = 4


@pytest.fixture
def batches() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = seeded_generator(0, "embeddings")
    real = torch.randn(23, 6, generator=generator, dtype=torch.float64)
    synthetic = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    real_labels = torch.arange(23)[torch.randperm(23, generator=generator)] % CLASSES
    synthetic_labels = torch.arange(9)[torch.randperm(9, generator=generator)] % CLASSES
    return real.requires_grad_(), synthetic.requires_grad_(), real_labels, synthetic_labels


def test_distance_and_its_gradients_follow_the_formula(batches: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    real, synthetic, real_labels, synthetic_labels = batches
    ours = mean_embedding_distance(
        class_means(real, real_labels, CLASSES), class_means(synthetic, synthetic_labels, CLASSES)
    )
    theirs = reference.mean_embedding_distance(*batches, CLASSES)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    leaves = (real, synthetic)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_distance_does_not_depend_on_the_order_of_the_rows(batches: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    real, _, labels, _ = batches
    order = torch.randperm(len(real), generator=seeded_generator(0, "order"))
    means, shuffled = class_means(real, labels, CLASSES), class_means(real[order], labels[order], CLASSES)
    torch.testing.assert_close(means, shuffled)
    assert mean_embedding_distance(means, means) == 0


def test_a_class_without_a_sample_is_not_a_mean() -> None:
    means = class_means(torch.ones(2, 3), torch.tensor([0, 2]), num_classes=3)
    assert means[1].isnan().all()
    assert torch.equal(means[[0, 2]], torch.ones(2, 3))


def test_distance_refuses_means_of_different_classes() -> None:
    with pytest.raises(ValueError, match="same num_classes"):
        mean_embedding_distance(torch.zeros(3, 2), torch.zeros(1, 2))


SHAPES = ((4, 2, 3, 3), (4,), (2, 3, 3), (5, 8), (5,))  # convolution, bias, affine of a layer norm, linear, bias


@pytest.fixture
def gradients() -> tuple[list[Tensor], list[Tensor]]:
    generator = seeded_generator(0, "gradients")
    sides = [[torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES] for _ in range(2)]
    return sides[0], [gradient.requires_grad_() for gradient in sides[1]]


@pytest.mark.parametrize("kind", get_args(GradientDistance))
def test_gradient_distance_and_its_gradient_follow_the_formula(
    kind: GradientDistance, gradients: tuple[list[Tensor], list[Tensor]]
) -> None:
    ours, theirs = gradient_distance(*gradients, kind), reference.gradient_distance(*gradients, kind)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    a, b = (
        torch.autograd.grad(value, gradients[1], allow_unused=True, materialize_grads=True) for value in (ours, theirs)
    )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_one_dimensional_parameters_add_nothing_to_the_layerwise_distance(
    gradients: tuple[list[Tensor], list[Tensor]],
) -> None:
    real, synthetic = gradients
    other = [gradient + 1 if gradient.dim() == 1 else gradient for gradient in synthetic]
    assert gradient_distance(real, other) == gradient_distance(real, synthetic)
    for kind in ("mse", "cosine"):
        assert gradient_distance(real, other, kind) != gradient_distance(real, synthetic, kind)


def test_layerwise_distance_sees_directions_of_units_only(gradients: tuple[list[Tensor], list[Tensor]]) -> None:
    real, units = gradients[0], 4 + 2 + 5
    assert gradient_distance(real, [7 * gradient for gradient in real]) < 1e-5
    assert gradient_distance(real, [-gradient for gradient in real]) == pytest.approx(2 * units, abs=1e-5)
    assert gradient_distance(real, [torch.zeros_like(gradient) for gradient in real]) == units


def test_gradient_distance_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="same parameters of one network"):
        gradient_distance([torch.zeros(2, 3)], [torch.zeros(3, 2)])
    with pytest.raises(ValueError, match="kind: expected"):
        gradient_distance([torch.zeros(2, 3)], [torch.zeros(2, 3)], "l1")  # type: ignore[arg-type]
