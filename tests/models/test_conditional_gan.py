import pytest
import torch
from torch import nn

from lightning_condkd.models.conditional_gan import ConditionalCritic, ConditionalGenerator

SHAPES = [((1, 8, 8), 10), ((3, 32, 32), 200), ((1, 28, 28), 3), ((3, 12, 20), 2), ((3, 5, 9), 2)]


@pytest.mark.parametrize(("shape", "classes"), SHAPES)
def test_every_size_and_number_of_classes_works(shape: tuple[int, int, int], classes: int) -> None:
    generator = ConditionalGenerator(shape, classes, latent_size=16, width=4)
    images = generator(5 * torch.randn(6, 16), torch.arange(6) % classes)
    assert images.shape == (6, *shape)
    assert images.min() >= 0
    assert images.max() <= 1
    realness, class_logits = ConditionalCritic(shape, classes, width=4)(images)
    assert realness.shape == (6,)
    assert class_logits.shape == (6, classes)


@pytest.mark.parametrize(("size", "first", "convolutions"), [(8, 4, 3), (28, 7, 5), (32, 4, 7), (64, 4, 9)])
def test_sizes_are_those_of_the_docstrings(size: int, first: int, convolutions: int) -> None:
    generator, critic = (
        ConditionalGenerator((3, size, size), 2, width=4),
        ConditionalCritic((3, size, size), 2, width=4),
    )
    assert generator.unflatten.unflattened_size == (4, first, first)
    assert sum(isinstance(module, nn.Conv2d) for module in critic.modules()) == convolutions


def test_defaults_are_the_widths_of_dim() -> None:
    generator = ConditionalGenerator((3, 32, 32), 10)
    assert (generator.latent_size, generator.to_image.in_channels) == (100, 196)
    assert ConditionalCritic((3, 32, 32), 10).realness.in_features == 196


def test_the_class_changes_the_image_and_all_of_the_latent_is_noise() -> None:
    torch.manual_seed(0)
    generator = ConditionalGenerator((1, 8, 8), 30, latent_size=8, width=8).eval()
    latents, labels = torch.randn(1, 8).repeat(2, 1), torch.tensor([0, 29])
    one, other = generator(latents, labels)
    assert not torch.allclose(one, other)
    latents.requires_grad_()
    generator(latents, labels).sum().backward()
    assert latents.grad is not None
    assert (latents.grad != 0).all()


def test_in_eval_mode_an_image_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    generator = ConditionalGenerator((1, 8, 8), 2, latent_size=8, width=8).double().eval()
    latents, labels = torch.randn(5, 8).double(), torch.tensor([0, 1, 0, 1, 0])
    assert torch.allclose(generator(latents, labels)[:1], generator(latents[:1], labels[:1]))


def test_the_critic_judges_each_image_by_itself_and_in_the_units_of_zero_to_one() -> None:
    torch.manual_seed(0)
    critic, images = ConditionalCritic((1, 8, 8), 2, width=8).double(), torch.rand(3, 1, 8, 8).double()
    assert torch.allclose(critic(images).realness[:1], critic(images[:1]).realness)
    assert torch.allclose(
        critic.features(2 * images - 1).amax((2, 3)) @ critic.realness.weight[0] + critic.realness.bias,
        critic(images).realness,
    )
