import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lightning_condkd.models import DigitsNet, Observer


def test_parameter_count_and_widths() -> None:
    network = DigitsNet()
    assert sum(p.numel() for p in network.parameters()) == 28_842
    assert Observer(network).bn_channels == (32, 32, 64)
    assert Observer(network).embedding_size == 64


def test_the_embedding_is_the_mean_of_the_last_map() -> None:
    output = Observer(DigitsNet())(torch.rand(2, 1, 8, 8), embedding=True, maps=["features"])
    assert output.maps[0].shape == (2, 64, 4, 4)
    torch.testing.assert_close(output.embedding, output.maps[0].mean((2, 3)))


@pytest.mark.parametrize(("norm", "layers"), [("batch", 3), ("one_group", 0), ("instance", 0), ("none", 0)])
def test_only_batch_norm_keeps_running_statistics(norm: str, layers: int) -> None:
    assert len(Observer(DigitsNet(norm=norm)).bn_channels) == layers


def test_convolutions_have_a_bias_where_no_norm_has_one() -> None:
    for norm in ("batch", "one_group", "none"):
        biases = [m.bias is not None for m in DigitsNet(norm=norm).modules() if isinstance(m, nn.Conv2d)]
        assert biases == [norm == "none"] * 3


def test_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of instance, batch, group, one_group, none .*, got 'layer'"):
        DigitsNet(norm="layer")


@pytest.mark.parametrize(("norm", "least"), [("batch", 0.96), ("one_group", 0.94)])
def test_it_learns_the_digits(norm: str, least: float) -> None:
    pixels, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8)[order] / 16
    labels = torch.from_numpy(classes)[order]
    torch.manual_seed(0)
    network = Observer(DigitsNet(width=16, norm=norm), (0.305,), (0.376,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 200)
    for epoch in range(10):
        shuffled = torch.randperm(1280, generator=torch.Generator().manual_seed(epoch))
        for rows in shuffled.split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows]).logits, labels[rows]).backward()
            optimizer.step()
            scheduler.step()
    network.eval()
    with torch.no_grad():
        accuracy = (network(images[1280:]).logits.argmax(1) == labels[1280:]).float().mean()
    assert accuracy > least
