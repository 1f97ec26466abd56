import copy

import pytest
import torch
from torch import nn

from lightning_condkd.models import NormalizedGenerator

CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}


def layers(generator: nn.Module, kind: type) -> list[nn.Module]:
    return [m for m in generator.modules() if isinstance(m, kind)]


@pytest.mark.parametrize(("latent_size", "affine"), [(1000, False), (100, True)], ids=["DAFL", "ZSKT"])
def test_parameter_count_of_the_published_generators(latent_size: int, affine: bool) -> None:
    generator = NormalizedGenerator((3, 32, 32), latent_size=latent_size, affine=affine, tanh=not affine)
    first = latent_size * 8192 + 8192 + 2 * 128
    stages = 128 * 128 * 9 + 128 + 2 * 128 + 128 * 64 * 9 + 64 + 2 * 64
    last = 64 * 3 * 9 + 3 + (2 * 3 if affine else 0)
    assert sum(p.numel() for p in generator.parameters()) == first + stages + last


def test_published_order_of_layers() -> None:
    generator = NormalizedGenerator((3, 32, 32), bn_eps=0.8)
    kinds = [type(layer).__name__ for layer in (*generator.stages, *generator.to_image)]
    assert kinds == ["Upsample", "Conv2d", "BatchNorm2d", "LeakyReLU"] * 2 + ["Conv2d", "Tanh", "BatchNorm2d"]
    assert generator.unflatten.unflattened_size == (128, 8, 8)
    assert [layer.negative_slope for layer in layers(generator, nn.LeakyReLU)] == [0.2, 0.2]
    assert {layer.mode for layer in layers(generator, nn.Upsample)} == {"nearest"}
    assert [layer.eps for layer in layers(generator, nn.BatchNorm2d)] == [1e-5, 0.8, 0.8, 1e-5]  # between the stages


@pytest.mark.parametrize("tanh", [True, False])
def test_the_teacher_sees_images_of_zero_mean_and_unit_variance(tanh: bool) -> None:
    """In every batch and each channel: the generator's last layer undoes what the teacher's normalisation does."""
    generator = NormalizedGenerator((3, 16, 16), **CIFAR10, latent_size=8, width=4, tanh=tanh)
    images = generator(torch.randn(32, 8))
    mean, std = (torch.tensor(CIFAR10[name]).view(-1, 1, 1) for name in ("mean", "std"))
    channels = ((images - mean) / std).transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(channels.std(1), torch.ones(3), rtol=0, atol=0.01)
    assert images.min() < 0 or images.max() > 1


def test_without_normalisation_images_are_what_the_last_layer_yields() -> None:
    images = NormalizedGenerator((1, 8, 8), latent_size=8, width=4)(torch.randn(32, 8))
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("affine", [True, False])
def test_a_learned_scale_and_offset_belong_to_the_last_layer_alone(affine: bool) -> None:
    generator = NormalizedGenerator((1, 8, 8), latent_size=8, width=4, affine=affine)
    assert [norm.affine for norm in layers(generator, nn.BatchNorm2d)] == [True, True, True, affine]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 16), (3, 64, 64), (1, 4, 4)])
def test_images_have_the_shape_and_every_parameter_a_gradient(shape: tuple[int, int, int]) -> None:
    generator = NormalizedGenerator(shape, latent_size=6, width=4)
    latents = torch.randn(5, 6, requires_grad=True)
    images = generator(latents)
    assert images.shape == (5, *shape)
    images.pow(3).sum().backward()
    assert latents.grad.abs().sum() > 0
    assert all(p.grad is not None for p in generator.parameters())


@pytest.mark.parametrize(("size", "stages", "start"), [(8, 2, 2), (28, 2, 7), (32, 2, 8), (64, 3, 8), (224, 5, 7)])
def test_depth_follows_the_resolution(size: int, stages: int, start: int) -> None:
    generator = NormalizedGenerator((3, size, size), latent_size=4, width=2)
    assert len(layers(generator, nn.Conv2d)) == stages + 1
    assert generator.project.out_features == 2 * start**2


@pytest.mark.parametrize("shape", [(3, 33, 32), (1, 8, 6), (3, 64, 60)])
def test_sides_that_the_stages_do_not_hit_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"expected image_shape with sides divisible by [48] px"):
        NormalizedGenerator(shape)


def test_spectral_normalisation_bounds_every_convolution_and_survives_a_copy() -> None:
    generator = NormalizedGenerator((1, 8, 8), latent_size=8, width=4, spectral=True)
    with torch.no_grad():
        for _ in range(100):  # every pass in train mode refines the estimate
            generator(torch.randn(4, 8))
    again = copy.deepcopy(generator)
    again.load_state_dict(generator.state_dict())
    for conv in (*layers(generator, nn.Conv2d), *layers(again, nn.Conv2d)):
        largest = torch.linalg.matrix_norm(conv.weight.detach().flatten(1), ord=2)
        assert largest.item() == pytest.approx(1, abs=1e-2)


def test_the_normalisation_is_no_state_but_follows_the_dtype() -> None:
    generator = NormalizedGenerator((1, 8, 8), mean=(0.5,), std=(0.25,), latent_size=8, width=4).double()
    assert not {"mean", "std"} & set(generator.state_dict())
    assert generator(torch.randn(4, 8, dtype=torch.float64)).dtype == torch.float64
