import copy
from types import UnionType

import pytest
import torch
from torch import nn

from lightning_condkd.models import ConvGenerator
from lightning_condkd.randomness import seeded_generator

SHAPES = [
    (1, 8, 8),
    (3, 16, 16),
    (1, 28, 28),
    (3, 32, 32),
    (3, 33, 30),
    (3, 10, 10),
    (3, 64, 64),
    (3, 96, 40),
    (1, 4, 5),
]


def layers(generator: nn.Module, kind: type | UnionType) -> list[nn.Module]:
    return [m for m in generator.modules() if isinstance(m, kind)]


def test_parameter_count_of_the_published_generator() -> None:
    parts = [256 * 8192 + 8192, 2 * 128, 128 * 128 * 9, 2 * 128, 128 * 64 * 9, 2 * 64, 64 * 3 * 9 + 3]
    assert sum(p.numel() for p in ConvGenerator((3, 32, 32)).parameters()) == sum(parts) == 2_328_899


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["batch", "one_group", "none"])
def test_images_have_the_shape_and_lie_in_the_unit_interval(shape: tuple[int, ...], norm: str) -> None:
    generator = ConvGenerator(shape, latent_size=6, width=4, norm=norm)
    latents = (3 * torch.randn(3, 6)).requires_grad_()
    images = generator(latents)
    assert images.shape == (3, *shape)
    assert images.min() >= 0
    assert images.max() <= 1
    images.square().sum().backward()
    assert latents.grad.abs().sum() > 0
    assert all(p.grad is not None for p in generator.parameters())


@pytest.mark.parametrize(
    ("size", "stages", "start"), [(8, 2, 2), (16, 2, 4), (28, 2, 7), (32, 2, 8), (64, 3, 8), (128, 4, 8), (224, 5, 7)]
)
def test_depth_follows_the_resolution(size: int, stages: int, start: int) -> None:
    generator = ConvGenerator((3, size, size), latent_size=4, width=2)
    assert len(layers(generator, nn.Conv2d)) == stages + 1
    assert len(layers(generator, nn.Upsample)) == stages
    assert generator.project.out_features == 4 * start**2


def test_resolution_of_imagenet() -> None:
    assert ConvGenerator((3, 224, 224), latent_size=4, width=2)(torch.randn(1, 4)).shape == (1, 3, 224, 224)


def test_published_order_of_layers() -> None:
    generator = ConvGenerator((3, 32, 32))
    kinds = [type(layer).__name__ for layer in generator.stages]
    assert kinds == ["Upsample", "Conv2d", "BatchNorm2d", "LeakyReLU"] * 2
    assert [layer.negative_slope for layer in layers(generator, nn.LeakyReLU)] == [0.2, 0.2]
    assert {layer.mode for layer in layers(generator, nn.Upsample)} == {"nearest"}
    assert [conv.bias is None for conv in layers(generator, nn.Conv2d)] == [True, True, False]


@pytest.mark.parametrize("shape", [(3, 3, 3), (1, 2, 8), (3, 224, 16)])
def test_images_that_are_too_small_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected image_shape of at least"):
        ConvGenerator(shape)


@pytest.mark.parametrize("norm", ["batch", "one_group"])
def test_initialise_refills_every_layer(norm: str) -> None:
    generator = ConvGenerator((3, 32, 32), width=32, norm=norm)
    generator(torch.randn(4, 256))
    generator.initialize(seeded_generator(0, "generator"))
    for layer in layers(generator, nn.Linear | nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm):
        center = 1 if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) else 0
        tolerance = 4 * 0.02 / layer.weight.numel() ** 0.5
        assert layer.weight.detach().mean() == pytest.approx(center, abs=tolerance)
        assert layer.weight.detach().std() == pytest.approx(0.02, abs=tolerance)
        assert layer.bias is None or not layer.bias.any()
    for layer in layers(generator, nn.BatchNorm2d):
        assert torch.equal(layer.running_mean, torch.zeros_like(layer.running_mean))
        assert torch.equal(layer.running_var, torch.ones_like(layer.running_var))
        assert layer.num_batches_tracked == 0


def test_initialise_depends_on_its_generator_only() -> None:
    first, second = (ConvGenerator((1, 8, 8), latent_size=8, width=4) for _ in range(2))
    state = torch.random.get_rng_state()
    first.initialize(seeded_generator(0, "generator", 1))
    second.initialize(seeded_generator(0, "generator", 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    second.initialize(seeded_generator(0, "generator", 2))
    assert not torch.equal(first.project.weight, second.project.weight)


def test_initialise_keeps_the_parameters_that_an_optimizer_holds() -> None:
    generator = ConvGenerator((1, 8, 8), latent_size=8, width=4)
    before = list(generator.parameters())
    generator.initialize(seeded_generator(0, "generator"))
    assert all(new is old and new.requires_grad for new, old in zip(generator.parameters(), before, strict=True))


@pytest.mark.parametrize("norm", ["batch", "one_group", "none"])
def test_reset_refills_the_linear_layer_and_the_first_norm_alone(norm: str) -> None:
    generator = ConvGenerator((1, 8, 8), latent_size=64, width=64, norm=norm)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.fill_(5)
    before = copy.deepcopy(generator)
    generator.reset_first_layers(seeded_generator(0, "reset"))
    assert generator.project.weight.detach().mean() == pytest.approx(0, abs=1e-3)
    assert generator.project.weight.detach().std() == pytest.approx(0.02, abs=1e-3)
    assert not generator.project.bias.any()
    if norm != "none":
        assert generator.norm.weight.detach().mean() == pytest.approx(1, abs=0.01)
        assert generator.norm.weight.detach().std() == pytest.approx(0.02, abs=0.005)
        assert not generator.norm.bias.any()
    rest = [name for name in before.state_dict() if not name.startswith(("project.", "norm."))]
    assert all(torch.equal(generator.state_dict()[name], before.state_dict()[name]) for name in rest)


def test_float64_by_cast() -> None:
    generator = ConvGenerator((1, 8, 8), latent_size=8, width=4).double()
    generator.initialize(seeded_generator(0, "generator"))
    assert generator(torch.randn(2, 8, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.usefixtures("float64_default")
def test_float64_by_default() -> None:
    generator = ConvGenerator((1, 8, 8), latent_size=8, width=4)
    generator.initialize(seeded_generator(0, "generator"))
    assert generator(torch.randn(2, 8)).dtype == torch.float64
