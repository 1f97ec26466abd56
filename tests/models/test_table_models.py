"""The networks that the field's tables are about: sizes against published ones, wiring against the description."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34

from lightning_condkd.models import Observer, SmallImageResNet, SmallImageVGG, WideResNet, load_weights

Build = Callable[..., nn.Module]

NETWORKS: dict[str, Build] = {
    "ResNet-18": partial(SmallImageResNet, 18),
    "ResNet-34": partial(SmallImageResNet, 34),
    "VGG-11": partial(SmallImageVGG, 11),
    "VGG-16": partial(SmallImageVGG, 16),
    "VGG-19": partial(SmallImageVGG, 19),
    "WRN-16-1": partial(WideResNet, 16, 1),
    "WRN-16-2": partial(WideResNet, 16, 2),
    "WRN-40-1": partial(WideResNet, 40, 1),
    "WRN-40-2": partial(WideResNet, 40, 2),
}


def count(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):  # no memory, no initial values
        return sum(p.numel() for p in build().parameters())


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("ResNet-18", 10, 11_173_962),  # Sun et al., NeuralFuse, arXiv 2306.16869, table 7; the VGGs too
        ("VGG-11", 10, 9_231_114),
        ("VGG-16", 10, 14_728_266),
        ("VGG-19", 10, 20_040_522),
        ("ResNet-34", 10, 21_282_122),  # from here: what users of pytorch-cifar and RepDistiller report
        ("WRN-40-2", 10, 2_243_546),
        ("WRN-40-2", 100, 2_255_156),
        ("WRN-16-2", 100, 703_284),
        ("WRN-16-1", 10, 175_066),  # from here: our count
        ("WRN-16-2", 10, 691_674),
        ("WRN-40-1", 10, 563_930),
    ],
)
def test_parameter_counts(name: str, classes: int, parameters: int) -> None:
    assert count(partial(NETWORKS[name], classes)) == parameters


@pytest.mark.parametrize(
    ("depth", "factor", "millions"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0), (16, 10, 17.1), (22, 8, 17.2), (28, 10, 36.5)],
)
def test_parameter_counts_of_the_paper_on_wide_networks(depth: int, factor: int, millions: float) -> None:
    """Zagoruyko and Komodakis, table 4."""
    assert round(count(partial(WideResNet, depth, factor)) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "embedding", "bn_total", "bn_layers"),
    [
        ("ResNet-18", 512, 4_800, 20),
        ("ResNet-34", 512, 8_512, 36),
        ("VGG-11", 512, 2_752, 8),  # 2752 and 2704: width of CMI's features, reference/inversion.md
        ("WRN-40-2", 128, 2_704, 37),
        ("WRN-40-1", 64, 1_360, 37),
        ("WRN-16-2", 128, 912, 13),
        ("WRN-16-1", 64, 464, 13),
    ],
)
def test_the_observer_sees_the_published_widths(name: str, embedding: int, bn_total: int, bn_layers: int) -> None:
    output = Observer(NETWORKS[name](5).eval())(torch.rand(2, 3, 32, 32), embedding=True, bn=True)
    assert output.embedding is not None
    assert output.embedding.shape == (2, embedding)
    assert output.logits.shape == (2, 5)
    widths = [len(statistics.mean) for statistics in output.bn]
    assert (sum(widths), len(widths)) == (bn_total, bn_layers)


SMALL = {"resnet": NETWORKS["ResNet-18"], "vgg": NETWORKS["VGG-11"], "wrn": partial(WideResNet, 10, 2)}


@pytest.fixture(params=SMALL.values(), ids=SMALL)
def build(request: pytest.FixtureRequest) -> Build:
    return request.param


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_depend_on_every_parameter_and_on_the_images(build: Build, channels: int) -> None:
    network = build(5, in_channels=channels)
    images = torch.rand(4, channels, 16, 16, requires_grad=True)
    network(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in network.parameters())


def test_they_read_images_of_any_size(build: Build) -> None:
    network = build(5).eval()
    assert all(network(torch.rand(1, 3, size, size)).shape == (1, 5) for size in (8, 32, 64))


def test_weights_go_through_a_file(build: Build, tmp_path: Path) -> None:
    network, other = build(5).eval(), build(5).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    load_weights(other, tmp_path / "weights.pt")
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(network(images), other(images))


@pytest.mark.parametrize(("depth", "theirs"), [(18, resnet18), (34, resnet34)])
def test_resnet_is_that_of_torchvision_behind_another_stem(depth: int, theirs: Callable[..., nn.Module]) -> None:
    network, other = SmallImageResNet(depth, 7).eval(), theirs(num_classes=7).eval()
    state = network.state_dict()
    other.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    other.load_state_dict(state)
    images = torch.rand(1, 3, 16, 16)
    maps = other.bn1(other.conv1(images)).relu()
    for stage in (other.layer1, other.layer2, other.layer3, other.layer4):
        maps = stage(maps)
    assert maps.shape[-2:] == (2, 2)
    torch.testing.assert_close(network(images), other.fc(maps.mean((2, 3))))


def _norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    statistics = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return F.batch_norm(x, *statistics, w[f"{name}.weight"], w[f"{name}.bias"])


@pytest.mark.parametrize(("factor", "projected"), [(1, (2, 3)), (2, (1, 2, 3))])
def test_wide_resnet_against_the_description(factor: int, projected: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network, images = WideResNet(16, factor).train(), torch.rand(8, 3, 16, 16)
    for _ in range(3):  # norms that are not at rest
        network(images)
    w = network.eval().state_dict()
    hidden = F.conv2d(images, w["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for index in (0, 1):
            name, stride = f"block{stage}.layer.{index}", 2 if stage > 1 and index == 0 else 1
            active = _norm(hidden, w, f"{name}.bn1").relu()
            inner = F.conv2d(active, w[f"{name}.conv1.weight"], stride=stride, padding=1)
            inner = F.conv2d(_norm(inner, w, f"{name}.bn2").relu(), w[f"{name}.conv2.weight"], padding=1)
            if index == 0 and stage in projected:
                hidden = F.conv2d(active, w[f"{name}.convShortcut.weight"], stride=stride)
            hidden = hidden + inner
    pooled = _norm(hidden, w, "bn1").relu().mean((2, 3))
    torch.testing.assert_close(network(images), pooled @ w["fc.weight"].T + w["fc.bias"])
    assert sum(name.endswith("convShortcut.weight") for name in w) == len(projected)


@pytest.mark.parametrize(("pools", "size"), [(3, 16), (4, 16), (5, 32), (0, 4)])
def test_vgg_against_the_description(pools: int, size: int) -> None:
    torch.manual_seed(0)
    network, x = SmallImageVGG(11, 7, max_pools=pools).eval(), torch.rand(2, 3, size, size)
    w, images = network.state_dict(), x
    for block, layers in enumerate(((0,), (0,), (0, 3), (0, 3), (0, 3))):
        for layer in layers:
            name = f"block{block}.{layer}"
            x = F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)
            x = _norm(x, w, f"block{block}.{layer + 1}").relu()
        x = F.max_pool2d(x, 2) if block < pools else x
    assert x.shape[-1] == size // 2**pools
    torch.testing.assert_close(network(images), x.mean((2, 3)) @ w["classifier.weight"].T + w["classifier.bias"])


def test_weights_start_by_the_rule_of_he_with_the_number_of_outputs(build: Build) -> None:
    torch.manual_seed(0)
    for module in build().modules():
        if isinstance(module, nn.Conv2d):
            weight, fan = module.weight.detach(), module.out_channels * module.weight[0, 0].numel()
            assert weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=4 / weight.numel() ** 0.5)
            assert module.bias is None or not module.bias.any()


def test_linear_layers_start_as_published() -> None:
    torch.manual_seed(0)
    assert not WideResNet(10, 1).fc.bias.any()
    classifier = SmallImageVGG(11).classifier
    assert not classifier.bias.any()
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected depth=18 or 34, got 20; CifarResNet"):
        SmallImageResNet(20)
    for depth in (4, 18, 20, -2):
        with pytest.raises(ValueError, match=rf"expected depth=6n\+4 .* got {depth}"):
            WideResNet(depth)
    with pytest.raises(ValueError, match="widen_factor of at least 1, got 0"):
        WideResNet(10, 0)
    with pytest.raises(ValueError, match="expected depth=11, 13, 16 or 19, got 12"):
        SmallImageVGG(12)
    for pools in (-1, 6):
        with pytest.raises(ValueError, match=f"expected max_pools from 0 to 5, got {pools}"):
            SmallImageVGG(11, max_pools=pools)
