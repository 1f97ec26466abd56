import copy
import hashlib
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.fx import GraphModule
from torchvision.models import resnet18
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.transforms.functional import pil_to_tensor

from lightning_condkd.models import CifarResNet, ConvNet, DigitsNet, MobileNetV2, Observer
from lightning_condkd.models.fresh_networks import FreshNetworks

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def hook_count(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


class HookCounter(nn.Module):
    """Counts the hooks of a whole network while it runs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.counted = []

    def forward(self, images: Tensor) -> Tensor:
        self.counted.append(hook_count(self))
        return self.network(images)


@pytest.fixture
def network() -> CifarResNet:
    torch.manual_seed(0)
    net = CifarResNet(8, width=4)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def test_logits_are_those_of_the_network_on_normalised_images(network: CifarResNet, images: Tensor) -> None:
    normalized = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    torch.testing.assert_close(Observer(network, MEAN, STD)(images).logits, network(normalized))


def test_without_mean_and_std_images_are_left_alone(network: CifarResNet, images: Tensor) -> None:
    observer = Observer(network)
    assert observer.mean is None
    assert observer.std is None
    assert torch.equal(observer(images).logits, network(images))


def test_what_is_not_asked_for_is_empty(network: CifarResNet, images: Tensor) -> None:
    output = Observer(network, MEAN, STD)(images)
    assert output.embedding is None
    assert output.maps == ()
    assert output.bn == ()
    assert output.channel_means is None


def test_mean_and_std_follow_the_module_but_not_its_state(network: CifarResNet) -> None:
    observer = Observer(network, MEAN, STD).double()
    assert observer.mean.dtype == observer.std.dtype == torch.float64
    assert all(name.startswith("network.") for name in observer.state_dict())


def test_embedding_is_what_the_final_linear_layer_maps_to_the_logits(network: CifarResNet, images: Tensor) -> None:
    output = Observer(network, MEAN, STD)(images, embedding=True)
    assert output.embedding.shape == (6, 16)
    torch.testing.assert_close(network.linear(output.embedding), output.logits)


def test_embedding_of_a_named_layer(images: Tensor) -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.auxiliary = nn.Linear(5, 4), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.main(x[:, :, 0, :5].sum(1))

    observer = Observer(TwoHeads(), embedding="main")
    assert (observer.num_classes, observer.embedding_size) == (4, 5)
    torch.testing.assert_close(observer(images, embedding=True).embedding, images[:, :, 0, :5].sum(1))
    with pytest.raises(RuntimeError, match="final linear layer was not executed"):
        Observer(observer.network)(images, embedding=True)


def test_embedding_that_is_no_vector_or_does_not_lead_to_the_logits_is_refused() -> None:
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(16, 4), nn.Flatten())
    with pytest.raises(ValueError, match="pass embedding=<name of module>"):
        Observer(tokens)(torch.rand(2, 3, 4, 4), embedding=True)


def test_maps_are_outputs_in_the_order_of_the_request(network: CifarResNet, images: Tensor) -> None:
    output = Observer(network)(images, maps=["layer3", "conv1"])
    torch.testing.assert_close(output.maps[1], network.conv1(images))
    torch.testing.assert_close(network.linear(output.maps[0].mean((2, 3))), output.logits)


def test_a_module_named_twice_is_returned_twice(network: CifarResNet, images: Tensor) -> None:
    output = Observer(network)(images, maps=["layer1", "layer2", "layer1"], channel_means=["layer1", "bn1", "layer1"])
    assert [maps.shape[1] for maps in output.maps] == [4, 8, 4]
    torch.testing.assert_close(output.maps[0], output.maps[2])
    assert output.channel_means is not None
    assert output.channel_means.shape == (len(images), 4 + 4 + 4)


def test_maps_survive_a_following_in_place_layer() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    images = torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(Observer(network)(images, maps=["0"]).maps[0], network[0](images))


def test_batch_norm_statistics_match_a_computation_by_hand(network: CifarResNet, images: Tensor) -> None:
    inputs = []
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [m.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for m in layers]
    network(images)
    for handle in handles:
        handle.remove()
    records = Observer(network)(images, bn=True).bn
    assert len(records) == len(layers) == 7
    for record, layer, x in zip(records, layers, inputs, strict=True):
        rows = x.transpose(0, 1).flatten(1)
        torch.testing.assert_close(record.mean, rows.mean(1))
        torch.testing.assert_close(record.variance, rows.var(1, correction=0))
        assert torch.equal(record.running_mean, layer.running_mean)
        assert torch.equal(record.running_variance, layer.running_var)


def test_batch_norm_statistics_in_train_mode_are_those_the_layer_uses_and_precede_its_update(images: Tensor) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3, momentum=1.0), nn.Flatten(), nn.Linear(432, 2)).train()
    (record,) = Observer(network)(images, bn=True).bn
    count = images.numel() / 3
    torch.testing.assert_close(network[0].running_mean, record.mean)
    torch.testing.assert_close(network[0].running_var, record.variance * count / (count - 1))
    assert torch.equal(record.running_mean, torch.zeros(3))
    assert torch.equal(record.running_variance, torch.ones(3))


def test_batch_norm_statistics_have_the_derivatives_of_mean_and_variance() -> None:
    layer = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).double().eval()
    observer = Observer(layer).freeze()
    x = torch.rand(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)

    def statistics(x: Tensor) -> tuple[Tensor, ...]:
        return observer(x, bn=True).bn[0][:2]

    assert torch.autograd.gradcheck(statistics, x)
    assert torch.autograd.gradgradcheck(statistics, x)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_batch_norm_statistics_are_at_least_single_precision(
    network: CifarResNet, images: Tensor, dtype: torch.dtype, expected: torch.dtype
) -> None:
    for record in Observer(network.to(dtype))(images.to(dtype), bn=True).bn:
        assert {value.dtype for value in record} == {expected}


def test_batch_norm_statistics_under_autocast_are_single_precision(network: CifarResNet, images: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = Observer(network)(images, bn=True)
    assert output.logits.dtype == torch.bfloat16
    assert {value.dtype for record in output.bn for value in record} == {torch.float32}


def test_layers_without_running_statistics_do_not_count(images: Tensor) -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(432, 2)
    )
    observer = Observer(network)
    assert observer.bn_channels == (3,)
    assert len(observer(images, bn=True).bn) == 1


def test_statistics_of_layers_that_did_not_run_are_missed(images: Tensor) -> None:
    class Skipping(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](x.mean((2, 3)))

    for asked in ("bn", "channel_means"):
        with pytest.raises(RuntimeError, match="the BatchNorm layer was not executed"):
            Observer(Skipping(nn.BatchNorm2d(3), nn.Linear(3, 2)))(images, **{asked: True})


def test_layers_are_found_after_they_were_replaced(network: CifarResNet, images: Tensor) -> None:
    observer = Observer(network).freeze()
    expected = observer(images, bn=True)
    observer.network = nn.SyncBatchNorm.convert_sync_batchnorm(observer.network)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in observer.modules())
    output = observer(images, bn=True)
    assert observer.bn_channels == (4, 4, 4, 8, 8, 16, 16)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (CifarResNet(14, width=4, shortcut="pad"), 8),
        (CifarResNet(14, width=4, shortcut="conv"), 8),
        (MobileNetV2(4, width_multiplier=0.25), 16),
        (ConvNet(4, image_size=8, width=8, norm="batch"), 8),
        (DigitsNet(4, width=4, in_channels=3), 8),
        (resnet18(num_classes=4), 32),
    ],
    ids=["pad", "conv", "mobilenet", "convnet", "digits", "torchvision"],
)
def test_order_of_registration_is_the_order_of_execution(network: nn.Module, size: int) -> None:
    observer = Observer(network.eval())
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for index, layer in enumerate(layers):
        layer.running_mean.fill_(index)
    records = observer(torch.rand(2, 3, size, size), bn=True).bn
    assert [int(record.running_mean[0]) for record in records] == list(range(len(layers)))
    assert tuple(len(record.mean) for record in records) == observer.bn_channels


def test_channel_means_match_a_computation_by_hand(network: CifarResNet, images: Tensor) -> None:
    inputs = []
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [m.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for m in layers]
    network(images)
    for handle in handles:
        handle.remove()
    expected = torch.stack([torch.cat([channel.mean()[None] for x in inputs for channel in x[n]]) for n in range(6)])
    output = Observer(network)(images, channel_means=True)
    assert output.bn == ()
    assert output.channel_means.shape == (6, sum(Observer(network).bn_channels))
    torch.testing.assert_close(output.channel_means, expected)
    rows = torch.tensor([4, 1])
    assert torch.equal(output.select(rows).channel_means, output.channel_means[rows])


def test_statistics_beside_channel_means_are_the_same_up_to_rounding(network: CifarResNet, images: Tensor) -> None:
    observer = Observer(network)
    alone, both = observer(images, bn=True), observer(images, bn=True, channel_means=True)
    assert alone.channel_means is None
    torch.testing.assert_close(both.bn, alone.bn)
    parts = both.channel_means.split(observer.bn_channels, dim=1)
    for record, part in zip(both.bn, parts, strict=True):
        assert torch.equal(record.mean, part.mean(0))  # the sum over pixels is taken once


def test_channel_means_of_unusual_networks(images: Tensor) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(432, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).eval()
    torch.testing.assert_close(Observer(flat)(images, channel_means=True).channel_means, flat[:2](images))
    without = nn.Sequential(nn.Flatten(), nn.Linear(432, 2))
    assert Observer(without)(images, channel_means=True).channel_means.shape == (6, 0)
    half = Observer(flat.to(torch.bfloat16))(images.to(torch.bfloat16), channel_means=True)
    assert half.channel_means.dtype == torch.float32


def test_channel_means_of_named_modules_are_those_of_their_inputs_in_the_given_order(
    network: CifarResNet, images: Tensor
) -> None:
    observer, names = Observer(network), ["layer3", "layer1", "bn1"]
    after = observer(images, maps=["layer2", "conv1"], channel_means=names, bn=True)
    assert after.channel_means is not None
    first = network.bn1(after.maps[1]).relu()  # what enters layer1
    expected = [x.mean((2, 3)) for x in (after.maps[0], first, after.maps[1])]
    torch.testing.assert_close(after.channel_means, torch.cat(expected, dim=1))
    torch.testing.assert_close(after.bn, observer(images, bn=True).bn)
    assert hook_count(observer) == 0
    with pytest.raises(ValueError, match=r"channel_means: expected the name of a module, got 'layer4'"):
        observer(images, channel_means=["layer4"])
    network.idle = nn.Identity()
    with pytest.raises(RuntimeError, match="the idle layer was not executed"):
        observer(images, channel_means=["layer1", "idle"])


def test_hooks_exist_only_during_a_call_that_asks(network: CifarResNet, images: Tensor) -> None:
    counter = HookCounter(network)
    observer = Observer(counter)
    observer(images)
    assert counter.counted == [0]
    observer(images, embedding=True, bn=True, maps=["network.layer1"], channel_means=True)
    assert counter.counted == [0, 1 + 7 + 1 + 7]
    assert hook_count(observer) == 0


def test_hooks_are_removed_when_the_network_fails(network: CifarResNet, images: Tensor) -> None:
    observer = Observer(network)
    with pytest.raises(RuntimeError, match="expected input"):
        observer(images[:, :2], embedding=True, bn=True, maps=["layer1"])
    assert hook_count(observer) == 0


def test_hooks_are_removed_when_a_later_name_is_wrong(network: CifarResNet, images: Tensor) -> None:
    observer = Observer(network)
    with pytest.raises(ValueError, match=r"maps: expected the name of a module, got 'layer4'; there are: .*layer3"):
        observer(images, bn=True, maps=["layer1", "layer4"])
    assert hook_count(observer) == 0


def test_asking_changes_nothing_in_the_logits(network: CifarResNet, images: Tensor) -> None:
    observer = Observer(network, MEAN, STD)
    assert torch.equal(observer(images).logits, observer(images, embedding=True, bn=True, maps=["bn1"]).logits)
    assert torch.equal(observer(images).logits, observer(images, channel_means=True).logits)


def test_gradient_passes_a_frozen_observer_to_the_images_only(network: CifarResNet, images: Tensor) -> None:
    observer = Observer(network, MEAN, STD).freeze()
    before = copy.deepcopy(observer.state_dict())
    images.requires_grad_()
    output = observer(images, embedding=True, bn=True, maps=["layer2"], channel_means=True)
    losses = [
        output.logits,
        output.channel_means,
        output.embedding,
        output.maps[0],
        *(r.mean for r in output.bn),
        *(r.variance for r in output.bn),
    ]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss.square().sum(), images, retain_graph=True)
        assert gradient.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in observer.parameters())
    torch.testing.assert_close(observer.state_dict(), before, rtol=0, atol=0)


def test_a_frozen_network_in_train_mode_is_refused_before_its_statistics_move(
    network: CifarResNet, images: Tensor
) -> None:
    observer = Observer(network, MEAN, STD).freeze()
    observer(images)
    before = observer.fingerprint()
    observer.network.train()
    with pytest.raises(RuntimeError, match=r"CifarResNet is frozen, but .* in train mode.*load the weights again"):
        observer(images)
    assert observer.fingerprint() == before
    observer.eval()(images)
    observer.network.bn1.train()
    with pytest.raises(RuntimeError, match="'bn1' was put in train mode"):
        observer.check_frozen()
    Observer(network).train().check_frozen()  # one that is not frozen may


def test_frozen_stays_in_eval(network: CifarResNet) -> None:
    observer = Observer(network.train())
    assert observer.freeze() is observer
    parent = nn.Sequential(observer).train()
    assert parent.training
    assert not any(m.training for m in observer.modules())


def test_not_frozen_follows_train_and_eval(network: CifarResNet) -> None:
    observer = Observer(network)
    assert observer.train().network.bn1.training
    assert not observer.eval().network.bn1.training


def test_a_train_mode_pass_updates_running_statistics_as_without_the_observer(
    network: CifarResNet, images: Tensor
) -> None:
    plain = copy.deepcopy(network).train()
    plain(images)
    Observer(network.train())(images, embedding=True, bn=True)
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_fingerprint_depends_on_values_and_names_only(network: CifarResNet, images: Tensor) -> None:
    observer = Observer(network, MEAN, STD)
    fingerprint = observer.fingerprint()
    assert len(fingerprint) == 64
    observer(images, bn=True)
    assert Observer(copy.deepcopy(network)).freeze().fingerprint() == fingerprint
    assert Observer(nn.Sequential(network)).fingerprint() != fingerprint
    network.bn1.running_var[0] += 1e-6
    assert observer.fingerprint() != fingerprint
    network.bn1.running_var[0] = 1
    fingerprint = observer.fingerprint()
    with torch.no_grad():
        network.linear.bias[0] += 1
    assert observer.fingerprint() != fingerprint


def test_fingerprint_ignores_memory_layout(network: CifarResNet) -> None:
    fingerprint = Observer(network).fingerprint()
    assert Observer(network.to(memory_format=torch.channels_last)).fingerprint() == fingerprint


def test_fingerprint_of_known_values() -> None:
    network = nn.Linear(1, 1)
    nn.init.zeros_(network.weight)
    nn.init.constant_(network.bias, -0.0)
    content = b"weight torch.float32 (1, 1)\n\0\0\0\0bias torch.float32 (1,)\n\0\0\0\x80"
    assert Observer(network).fingerprint() == hashlib.sha256(content).hexdigest()


def vision_transformer() -> VisionTransformer:
    return VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5)


def convnext() -> ConvNeXt:
    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=5)


@pytest.mark.parametrize(
    ("build", "width", "layers"),
    [(lambda: resnet18(num_classes=5), 512, 20), (vision_transformer, 8, 0), (convnext, 16, 0)],
    ids=["resnet18", "vit", "convnext"],
)
def test_networks_of_torchvision(build: Callable[[], nn.Module], width: int, layers: int) -> None:
    observer = Observer(build(), MEAN, STD).freeze()
    output = observer(torch.rand(2, 3, 16, 16), embedding=True, bn=True)
    assert (observer.num_classes, observer.embedding_size, len(observer.bn_channels)) == (5, width, layers)
    assert output.logits.shape == (2, 5)
    assert output.embedding.shape == (2, width)
    assert len(output.bn) == layers


def test_float64_throughout(network: CifarResNet, images: Tensor) -> None:
    output = Observer(network, MEAN, STD).double()(images.double(), embedding=True, bn=True)
    assert output.logits.dtype == output.embedding.dtype == output.bn[0].mean.dtype == torch.float64


def test_a_network_of_unknown_width_is_refused() -> None:
    with pytest.raises(ValueError, match="nor a last layer whose width is the number of classes; wrap the network"):
        Observer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU()))


def test_a_missing_named_layer_is_refused(network: CifarResNet) -> None:
    with pytest.raises(ValueError, match=r"embedding: expected the name of a module, got 'fc'; there are: .*linear"):
        Observer(network, embedding="fc")


def test_images_of_another_kind_are_refused(network: CifarResNet, images: Tensor) -> None:
    observer = Observer(network, MEAN, STD)
    with pytest.raises(ValueError, match="expected images with 3 channels, got 1"):
        observer(images[:, :1])
    with pytest.raises(ValueError, match=r"expected images \(N, C, H, W\)"):
        observer(images[0])
    with pytest.raises(TypeError, match="divide by 255"):
        observer((images * 255).to(torch.uint8))


def test_normalisation_that_makes_no_sense_is_refused(network: CifarResNet) -> None:
    with pytest.raises(ValueError, match="got 3 and 1 values"):
        Observer(network, MEAN, (0.5,))
    with pytest.raises(ValueError, match="std above 0"):
        Observer(network, MEAN, (0.5, 0.0, 0.5))


@pytest.mark.parametrize("build", [Observer, lambda *given: FreshNetworks(lambda: CifarResNet(8, width=2), *given)])
@pytest.mark.parametrize(
    ("mean", "std", "match"),
    [
        ((125.3, 123.0, 113.9), STD, r"mean: expected values in the units of \[0, 1\].*divide by 255"),
        (MEAN, (63.0, 62.1, 66.7), r"std: expected values in the units of \[0, 1\].*divide by 255"),
        ((-0.1, 0.5, 0.5), STD, "mean: expected values in the units"),
        (0.5, STD, r"mean: expected a finite number for each channel, got 0.5: .*\[0.5\] for grey images"),
        ("0.5", STD, "mean: expected a finite number for each channel, got '0.5'"),
        (torch.tensor(0.5), STD, "mean: expected a finite number for each channel"),
        (MEAN, 0.25, "std: expected a finite number for each channel, got 0.25"),
        (MEAN, (0.25, math.nan, 0.25), "std: expected a finite number"),
        ([], [], "mean: expected a finite number"),
    ],
)
def test_mean_and_std_are_numbers_of_the_channels_in_the_units_of_0_to_1(
    network: CifarResNet, build: Any, mean: Any, std: Any, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        build(network, mean, std) if build is Observer else build(mean, std)


@pytest.mark.parametrize("values", [torch.tensor([0.5] * 3), np.array([0.5] * 3), [1, 1, 1]])
def test_mean_and_std_may_come_as_any_sequence(network: CifarResNet, values: Any) -> None:
    observer = Observer(network, values, values)
    assert torch.equal(observer.mean, torch.as_tensor(values).float())
    assert torch.equal(observer.std, torch.as_tensor(values).float())


def test_a_network_that_returns_a_tuple_is_refused(images: Tensor) -> None:
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x.mean((2, 3))), x

    with pytest.raises(TypeError, match="expected Pair to return logits"):
        Observer(Pair(3, 2))(images)


def test_a_map_that_is_no_tensor_is_refused(images: Tensor) -> None:
    class Split(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split, self.linear = Split(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.split(x)[0].mean((2, 3)))

    observer = Observer(Network())
    with pytest.raises(TypeError, match="maps: expected a tensor from Split, got tuple"):
        observer(images, maps=["split"])
    assert hook_count(observer) == 0


class Counting:
    """A backend of torch.compile that counts the passes through what it compiled."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, graph: GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        def run(*values: object) -> object:
            self.passes += 1
            return graph(*values)

        return run


def test_only_passes_of_a_step_that_ask_for_nothing_are_compiled(network: CifarResNet, images: Tensor) -> None:
    plain, compiled, counting = Observer(network), Observer(copy.deepcopy(network)).freeze(), Counting()
    compiled.compile(backend=counting)
    with torch.no_grad():
        assert torch.equal(compiled(images).logits, plain(images).logits)
        assert counting.passes == 1
        asked = [observer(images, embedding=True, bn=True, maps=["layer1"]) for observer in (compiled, plain)]
        assert torch.equal(asked[0].bn[0].mean, asked[1].bn[0].mean)
        assert torch.equal(asked[0].maps[0], asked[1].maps[0])
    assert torch.equal(compiled(images).logits, plain(images).logits)
    with torch.inference_mode():
        compiled(images)
    assert counting.passes == 1
    compiled = Observer(copy.deepcopy(network))
    compiled.compile(backend=counting)
    with torch.no_grad():
        compiled(images)
    assert counting.passes == 1
    for observer in (compiled.train(), plain.train()):
        observer(images).logits.square().sum().backward()
    assert counting.passes == 2
    gradients = [[p.grad for p in observer.parameters()] for observer in (compiled, plain)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))  # type: ignore[arg-type]


def test_a_compiled_observer_keeps_its_names_and_is_copied_without(network: CifarResNet, images: Tensor) -> None:
    observer, counting = Observer(network), Counting()
    names, modules = list(observer.state_dict()), len(list(observer.modules()))
    observer.compile(backend=counting)
    observer.train()(images)
    assert (list(observer.state_dict()), len(list(observer.modules()))) == (names, modules)
    copied = copy.deepcopy(observer)
    copied(images)
    assert counting.passes == 1


def test_weights_are_loaded_from_a_file(network: CifarResNet, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    observer = Observer(CifarResNet(8, width=4), weights=tmp_path / "teacher.pt")
    assert observer.fingerprint() == Observer(network).fingerprint()


@pytest.mark.real_data
def test_the_public_resnet20_recognises_cifar10(real_data: Path) -> None:
    weights = real_data / "resnet20-cifar10.safetensors"
    teacher = Observer(CifarResNet(20), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), weights=weights).freeze()
    images, labels = every_tenth_test_image(real_data / "cifar10-png.tar")
    with torch.no_grad():
        predictions = teacher(images).logits.argmax(1)
    assert (predictions == labels).sum() == pytest.approx(912, abs=2)


def every_tenth_test_image(archive: Path) -> tuple[Tensor, Tensor]:
    with tarfile.open(archive) as files:
        members = [m for m in files if m.isfile() and m.name.startswith("test/")][::10]
        pictures = [pil_to_tensor(Image.open(files.extractfile(m))) for m in members]
    classes = [m.name.split("/")[1] for m in members]
    names = sorted(set(classes))
    return torch.stack(pictures) / 255, torch.tensor([names.index(c) for c in classes])


def test_batch_statistics_are_those_of_train_mode_and_leave_the_network_alone(
    network: CifarResNet, images: Tensor
) -> None:
    expected = Observer(copy.deepcopy(network).train(), MEAN, STD)(images, embedding=True)
    observer = Observer(network, MEAN, STD).freeze()
    before, usual = observer.fingerprint(), observer(images).logits
    output = observer(images, embedding=True, batch_statistics=True)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.embedding, expected.embedding)
    assert not torch.allclose(output.logits, usual)
    assert observer.fingerprint() == before
    assert not any(module.training for module in observer.modules())
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert torch.equal(observer(images).logits, usual)


def test_batch_statistics_leave_dropout_off_and_gradients_on(images: Tensor) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(432, 2))
    observer = Observer(network).freeze()
    images.requires_grad_()
    first, second = (observer(images, batch_statistics=True).logits for _ in range(2))
    assert torch.equal(first, second)
    (gradient,) = torch.autograd.grad(first[:, 0].sum(), images)
    assert bool(gradient.any())


def test_batch_statistics_in_train_mode_update_nothing(network: CifarResNet, images: Tensor) -> None:
    observer = Observer(network.train())
    before = observer.fingerprint()
    observer(images, batch_statistics=True)
    assert observer.fingerprint() == before
    assert all(module.training for module in network.modules())


def test_a_failed_pass_restores_the_layers(network: CifarResNet) -> None:
    observer = Observer(network).freeze()
    with pytest.raises(ValueError, match="images"):
        observer(torch.rand(3, 12, 12), batch_statistics=True)
    observer.check_frozen()
    assert network.bn1.track_running_stats


def test_batch_statistics_need_batch_norm(images: Tensor) -> None:
    with pytest.raises(ValueError, match="batch_statistics: Sequential has no BatchNorm layer with running statistics"):
        Observer(nn.Sequential(nn.Flatten(), nn.Linear(432, 2)))(images, batch_statistics=True)


def test_a_compiled_network_is_left_out_under_batch_statistics(network: CifarResNet, images: Tensor) -> None:
    def refuse(*_: object) -> Any:
        raise AssertionError("compiled")

    observer = Observer(network).freeze()
    with torch.no_grad():
        expected = observer(images, batch_statistics=True).logits
        observer.compile(backend=refuse)
        assert torch.equal(observer(images, batch_statistics=True).logits, expected)
