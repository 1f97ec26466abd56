import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.models import CifarResNet
from lightning_condkd.models.resnet import PadShortcut


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("depth", "pad", "conv"),
    [
        (8, 75_290, 78_042),
        (14, 172_506, 175_258),
        (20, 269_722, 272_474),
        (32, 464_154, 466_906),
        (56, 853_018, 855_770),
    ],
)
def test_parameter_counts(depth: int, pad: int, conv: int) -> None:
    assert count(CifarResNet(depth)) == pad
    assert count(CifarResNet(depth, shortcut="conv")) == conv


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameter_counts_of_the_paper(depth: int, millions: float) -> None:
    assert count(CifarResNet(depth)) / 1e6 == pytest.approx(millions, rel=0.02)


def test_names_are_those_of_the_public_weights() -> None:
    layers = {f"layer{s}.{b}.{part}" for s in (1, 2, 3) for b in (0, 1, 2) for part in ("conv1", "bn1", "conv2", "bn2")}
    names = {name.rsplit(".", 1)[0] for name in CifarResNet(20).state_dict()}
    assert names == layers | {"conv1", "bn1", "linear"}


def test_names_of_shortcuts_with_parameters() -> None:
    names = {name.rsplit(".", 1)[0] for name in CifarResNet(8, shortcut="conv").state_dict()}
    assert {name for name in names if "shortcut" in name} == {
        f"layer{stage}.0.shortcut.{part}" for stage in (2, 3) for part in (0, 1)
    }


def test_pad_keeps_every_second_pixel_between_zeros() -> None:
    images = torch.arange(32.0).view(1, 2, 4, 4)
    padded = PadShortcut(2, 4, 2)(images)
    assert padded[0, 1].tolist() == [[0, 2], [8, 10]]
    assert padded[0, 2].tolist() == [[16, 18], [24, 26]]
    assert not padded[0, [0, 3]].any()


def test_forward_against_the_description() -> None:
    torch.manual_seed(0)
    network, x = CifarResNet(8, width=2).eval(), torch.rand(2, 3, 8, 8)
    w = network.state_dict()

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, w[f"{conv}.weight"], stride=stride, padding=1)
        return F.batch_norm(x, w[f"{bn}.running_mean"], w[f"{bn}.running_var"], w[f"{bn}.weight"], w[f"{bn}.bias"])

    hidden = conv_bn(x, "conv1", "bn1").relu()
    for stage, stride in (("layer1.0", 1), ("layer2.0", 2), ("layer3.0", 2)):
        shortcut = hidden[:, :, ::stride, ::stride]
        zeros = torch.zeros_like(shortcut)[:, : shortcut.shape[1] // 2] if stride == 2 else shortcut[:, :0]
        inner = conv_bn(hidden, f"{stage}.conv1", f"{stage}.bn1", stride).relu()
        hidden = (conv_bn(inner, f"{stage}.conv2", f"{stage}.bn2") + torch.cat([zeros, shortcut, zeros], 1)).relu()
    logits = hidden.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]
    torch.testing.assert_close(network(x), logits)


@pytest.mark.parametrize("depth", [2, 18, 21, -4])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"expected depth=6n\\+2 .* got {depth}"):
        CifarResNet(depth)


def test_unknown_shortcut_is_refused() -> None:
    with pytest.raises(ValueError, match="expected shortcut='pad' or 'conv', got 'b'"):
        CifarResNet(8, shortcut="b")


def test_weights_start_by_the_rule_of_he() -> None:
    for module in CifarResNet(8).modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / module.weight[0].numel()) ** 0.5
            assert module.weight.detach().std().item() == pytest.approx(expected, rel=4 / module.weight.numel() ** 0.5)
