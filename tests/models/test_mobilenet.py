import pytest
import torch
from torchvision.models import mobilenet_v2

from lightning_condkd.models import MobileNetV2


@pytest.mark.parametrize(
    ("classes", "channels", "parameters"), [(1000, 3, 3_504_872), (10, 3, 2_236_682), (1000, 1, 3_504_296)]
)
def test_parameter_counts(classes: int, channels: int, parameters: int) -> None:
    assert sum(p.numel() for p in MobileNetV2(classes, in_channels=channels).parameters()) == parameters


def test_with_stride_two_it_is_the_network_of_torchvision() -> None:
    ours, theirs = MobileNetV2(7, stem_stride=2).eval(), mobilenet_v2(num_classes=7).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(("stride", "size"), [(1, 2), (2, 1)])
def test_last_map_of_32_pixel_images(stride: int, size: int) -> None:
    network = MobileNetV2(7, stem_stride=stride, width_multiplier=0.25).eval()
    assert network.features(torch.rand(1, 3, 32, 32)).shape[-2:] == (size, size)
