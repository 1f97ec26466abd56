from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional import divergence, inversion
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.types import BatchNormStatistics
from tests.reference import inversion as reference


def _statistics(purpose: str = "statistics") -> list[BatchNormStatistics]:
    generator = seeded_generator(0, purpose)
    layers = []
    for channels in (3, 5, 4):
        rows = torch.randn(4, channels, generator=generator, dtype=torch.float64)
        mean, variance = rows[0].requires_grad_(), rows[1].square().requires_grad_()
        layers.append(
            BatchNormStatistics(
                mean.detach().requires_grad_(),
                variance.detach().requires_grad_(),
                rows[2].detach(),
                rows[3].detach().square(),
            )
        )
    return layers


def _leaves(layers: list[BatchNormStatistics]) -> list[Tensor]:
    return [tensor for layer in layers for tensor in (layer.mean, layer.variance)]


def _assert_same(ours: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        assert a.abs().max() > 1e-6
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = seeded_generator(0, "logits")
    teacher = 2 * torch.randn(8, 4, generator=generator, dtype=torch.float64)
    student = teacher + torch.randn(8, 4, generator=generator, dtype=torch.float64)
    student[:3] = student[:3].roll(1, dims=1)
    return teacher.requires_grad_(), student.requires_grad_()


def test_class_loss_follows_the_formula(logits: tuple[Tensor, Tensor]) -> None:
    labels = torch.arange(8) % 4
    _assert_same(inversion.class_loss(logits[0], labels), reference.class_loss(logits[0], labels), [logits[0]])


def test_bn_distance_follows_the_formula() -> None:
    layers = _statistics()
    _assert_same(
        inversion.bn_distance(layers), reference.bn_distance([tuple(layer) for layer in layers]), _leaves(layers)
    )


def test_bn_distance_is_neither_squared_nor_averaged() -> None:
    zero, ones = torch.zeros(4), torch.ones(4)
    layer = BatchNormStatistics(mean=3 * ones, variance=zero, running_mean=zero, running_variance=zero)
    assert inversion.bn_distance([layer]) == 6
    assert inversion.bn_distance([layer, layer]) == 12


def test_bn_distance_and_its_gradient_are_zero_at_the_running_statistics() -> None:
    layers = [
        layer._replace(running_mean=layer.mean.detach(), running_variance=layer.variance.detach())
        for layer in _statistics()
    ]
    loss = inversion.bn_distance(layers)
    assert loss == 0
    for gradient in torch.autograd.grad(loss, _leaves(layers)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_bn_distance_refuses_a_network_without_bn() -> None:
    with pytest.raises(ValueError, match="bn_weight=0"):
        inversion.bn_distance([])


def test_blend_follows_the_formula_and_keeps_the_average_constant() -> None:
    layers, averages = _statistics(), _statistics("averages")
    means, variances = [layer.mean for layer in averages], [layer.variance for layer in averages]
    blended = inversion.blend_statistics(layers, means, variances, momentum=0.9)
    for layer, average, result in zip(layers, averages, blended, strict=True):
        torch.testing.assert_close(result.mean, 0.1 * layer.mean + 0.9 * average.mean, rtol=0, atol=1e-10)
        torch.testing.assert_close(result.variance, 0.1 * layer.variance + 0.9 * average.variance, rtol=0, atol=1e-10)
        assert result.running_mean is layer.running_mean
        assert result.running_variance is layer.running_variance
    loss = inversion.bn_distance(blended)
    assert all(g is None for g in torch.autograd.grad(loss, means + variances, retain_graph=True, allow_unused=True))
    for gradient in torch.autograd.grad(loss, [layer.mean for layer in layers]):
        torch.testing.assert_close(gradient.norm().item(), 0.1)


def test_blend_without_momentum_changes_nothing() -> None:
    layers, averages = _statistics(), _statistics("averages")
    blended = inversion.blend_statistics(
        layers, [a.mean for a in averages], [a.variance for a in averages], momentum=0.0
    )
    assert all(
        torch.equal(a.mean, b.mean) and torch.equal(a.variance, b.variance)
        for a, b in zip(layers, blended, strict=True)
    )


def test_blend_refuses_averages_of_another_network() -> None:
    layers = _statistics()
    with pytest.raises(ValueError, match="each of the 3 BatchNorm layers, got 2 means and 3 variances"):
        inversion.blend_statistics(layers, [x.mean for x in layers[:2]], [x.variance for x in layers], momentum=0.9)


def test_adversarial_divergence_follows_the_formula(logits: tuple[Tensor, Tensor]) -> None:
    agreeing = (logits[0].argmax(1) == logits[1].argmax(1)).sum()
    assert 0 < agreeing < len(logits[0])
    _assert_same(divergence.adversarial_divergence(*logits), reference.adversarial_divergence(*logits), list(logits))


def test_adversarial_divergence_counts_agreeing_samples_over_all(logits: tuple[Tensor, Tensor]) -> None:
    teacher, student = logits
    agree = teacher.argmax(1) == student.argmax(1)
    among_agreeing = divergence.adversarial_divergence(teacher[agree], student[agree])
    torch.testing.assert_close(
        divergence.adversarial_divergence(teacher, student), among_agreeing * agree.double().mean()
    )
    for gradient in torch.autograd.grad(divergence.adversarial_divergence(teacher, student), logits):
        assert torch.equal(gradient[~agree], torch.zeros_like(gradient[~agree]))
        assert gradient[agree].abs().amax(1).min() > 0


def test_adversarial_divergence_is_zero_without_agreement() -> None:
    teacher = torch.eye(4)
    assert divergence.adversarial_divergence(teacher, teacher.roll(1, dims=1)) == 0
