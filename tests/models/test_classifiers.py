"""What holds for every classifier of the package."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_condkd.models import CifarResNet, ConvNet, DigitsNet, MobileNetV2, Observer

BUILDERS = {
    "resnet": lambda channels: CifarResNet(8, 5, width=4, in_channels=channels),
    "resnet-conv": lambda channels: CifarResNet(8, 5, width=4, in_channels=channels, shortcut="conv"),
    "mobilenet": lambda channels: MobileNetV2(5, width_multiplier=0.25, in_channels=channels),
    "convnet": lambda channels: ConvNet(5, image_size=16, in_channels=channels, width=8),
    "digits": lambda channels: DigitsNet(5, width=4, in_channels=channels),
}


@pytest.fixture(params=BUILDERS.values(), ids=BUILDERS)
def build(request: pytest.FixtureRequest) -> Callable[[int], nn.Module]:
    return request.param


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_depend_on_every_parameter_and_on_the_images(build: Callable[[int], nn.Module], channels: int) -> None:
    network = build(channels)
    images = torch.rand(4, channels, 16, 16, requires_grad=True)
    logits = network(images)
    assert logits.shape == (4, 5)
    logits.square().sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in network.parameters())


def test_an_image_has_the_same_logits_alone_and_in_a_batch(build: Callable[[int], nn.Module]) -> None:
    network, images = build(3).eval(), torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-4, atol=1e-5)


def test_float64_by_cast(build: Callable[[int], nn.Module]) -> None:
    network, images = build(3).eval(), torch.rand(2, 3, 16, 16)
    single = network(images)
    double = network.double()(images.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("float64_default")
def test_float64_by_default(build: Callable[[int], nn.Module]) -> None:
    output = Observer(build(3), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))(torch.rand(2, 3, 16, 16), embedding=True, bn=True)
    assert {value.dtype for value in (output.logits, output.embedding, *sum(output.bn, ()))} == {torch.float64}


def test_the_last_layer_is_linear(build: Callable[[int], nn.Module]) -> None:
    assert isinstance(list(build(3).modules())[-1], nn.Linear)
