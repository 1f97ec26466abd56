from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from lightning_condkd.models import ConvNet, DigitsNet, Observer
from lightning_condkd.models.generators import ConvGenerator


@pytest.mark.parametrize(
    ("classes", "depth", "size", "parameters"), [(10, 3, 32, 320_010), (100, 3, 32, 504_420), (200, 4, 64, 857_160)]
)
def test_parameter_counts_of_the_literature(classes: int, depth: int, size: int, parameters: int) -> None:
    network = ConvNet(classes, depth=depth, image_size=size)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("size", "depth", "channels", "width"),
    [(8, 3, 1, 128), (8, 2, 1, 512), (32, 3, 3, 2048), (28, 3, 3, 1152), (28, 3, 1, 2048), (20, 3, 1, 512)],
)
def test_width_of_the_embedding_follows_the_image_size(size: int, depth: int, channels: int, width: int) -> None:
    network = ConvNet(image_size=size, depth=depth, in_channels=channels)
    assert Observer(network)(torch.rand(1, channels, size, size), embedding=True).embedding.shape == (1, width)


@pytest.mark.parametrize(("size", "channels", "padding"), [(28, 1, 3), (28, 3, 1), (32, 1, 1), (8, 1, 1)])
def test_only_one_channel_images_of_28_pixels_are_padded(size: int, channels: int, padding: int) -> None:
    convolutions = [m for m in ConvNet(image_size=size, in_channels=channels).modules() if isinstance(m, nn.Conv2d)]
    assert [conv.padding[0] for conv in convolutions] == [padding, 1, 1]


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "one_group", "layer"])
def test_maps_are_normalised_over_the_dimensions_of_the_norm(norm: str) -> None:
    network = ConvNet(image_size=8, width=8, norm=norm).train()
    images = torch.rand(4, 3, 8, 8)
    maps = Observer(network)(images, maps=["features.1"]).maps[0]
    groups = {
        "instance": maps.flatten(2),
        "batch": maps.transpose(0, 1).flatten(1),
        "group": maps.view(4, 4, -1),
        "one_group": maps.flatten(1),
        "layer": maps.flatten(1),
    }[norm]
    torch.testing.assert_close(groups.mean(-1), torch.zeros(groups.shape[:-1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(groups.var(-1, correction=0), torch.ones(groups.shape[:-1]), rtol=0, atol=0.05)


def test_layer_has_a_scale_for_each_pixel_and_one_group_for_each_channel() -> None:
    layers = [ConvNet(image_size=8, width=8, norm=norm).features[1] for norm in ("layer", "one_group")]
    assert [layer.weight.shape for layer in layers] == [(8, 8, 8), (8,)]


@pytest.mark.parametrize("make", [ConvNet, DigitsNet, partial(ConvGenerator, (1, 8, 8))])
def test_norms_of_one_name_are_the_same_in_all_networks(make: Callable[..., nn.Module]) -> None:
    for norm, groups in (("instance", {None}), ("group", {4}), ("one_group", {1})):
        layers = [layer for layer in make(width=8, norm=norm).modules() if isinstance(layer, nn.GroupNorm)]
        assert {None if layer.num_groups == layer.num_channels else layer.num_groups for layer in layers} == groups
    with pytest.raises(ValueError, match=r"norm to be one of instance, batch, .* got 'spectral'"):
        make(norm="spectral")


def test_only_the_batch_variant_has_running_statistics() -> None:
    widths = {
        norm: Observer(ConvNet(width=8, norm=norm)).bn_channels for norm in ("instance", "batch", "layer", "none")
    }
    assert widths == {"instance": (), "batch": (8, 8, 8), "layer": (), "none": ()}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2\\*\\*depth pixels, got 8 with depth=4"):
        ConvNet(image_size=8, depth=4)
    with pytest.raises(ValueError, match="at least 2\\*\\*depth pixels, got 8 with depth=0"):
        ConvNet(image_size=8, depth=0)
    with pytest.raises(ValueError, match=r"norm to be one of instance, .*or layer\), got 'batchnorm'"):
        ConvNet(norm="batchnorm")
    with pytest.raises(ValueError, match="expected images of image_size=32 pixels"):
        ConvNet(width=8)(torch.rand(1, 3, 28, 28))
