from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional.matching import class_means, mean_embedding_distance
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
