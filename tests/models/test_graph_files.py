"""Files of a network with its graph: what is refused, and that nothing wrong keeps its name."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.models import ConvNet, DigitsNet, Observer, SmallImageVGG, WideResNet, graph_files
from lightning_condkd.models.graph_files import save_graph
from tests.conftest import ROOT

FORMATS = ["onnx", "pt2", "torchscript"]
NETWORKS = [ConvNet(10, width=8), SmallImageVGG(11), WideResNet(10, 1)]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class ByNumber(nn.Module):
    """A network whose logits depend on the number of images, which a recorded graph does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1)) * float(len(images))


class ByValue(ByNumber):
    """A network that looks at a value."""

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1)) * (1.0 if float(images.sum()) > 5.5 else -1.0)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("name", ["a.onnx", "a.pt2", "a.ts"])
def test_our_networks_are_written(network: nn.Module, name: str, tmp_path: Path) -> None:
    if name.endswith("onnx"):
        pytest.importorskip("onnxruntime")
    check = save_graph(Observer(network, MEAN, STD), tmp_path / name, (3, 32, 32))
    assert check.difference is not None
    assert check.difference < 1e-5 * max(1.0, check.largest)
    assert [path.name for path in tmp_path.iterdir()] == [name]  # one file, also with the weights of ONNX


def test_the_network_stays_as_it_is(tmp_path: Path) -> None:
    observer = Observer(DigitsNet(width=4), (0.3,), (0.4,)).double().train()
    before = {name: value.clone() for name, value in observer.state_dict().items()}
    save_graph(observer, tmp_path / "a.pt2", (1, 8, 8), folded=False)
    assert observer.training
    assert all(module.training for module in observer.modules())
    assert all(parameter.requires_grad for parameter in observer.parameters())
    assert all(torch.equal(value, before[name]) for name, value in observer.state_dict().items())
    assert torch.export.load(tmp_path / "a.pt2").module()(torch.rand(3, 1, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize("network", [ByNumber(), ByValue()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("format", FORMATS)
def test_a_graph_that_differs_or_cannot_be_recorded_is_not_left(
    network: nn.Module, format: str, tmp_path: Path
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    (tmp_path / "a.bin").write_text("before")
    try:
        save_graph(Observer(network), tmp_path / "a.bin", (3, 2, 2), format=format)  # type: ignore[arg-type]
    except ValueError as error:
        assert "export its weights" in str(error)  # noqa: PT017
        assert (tmp_path / "a.bin").read_text() == "before"
    else:  # a number of images may be part of the graph
        assert type(network) is ByNumber
        assert format == "pt2"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_no_file_tells_where_the_source_was(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    save_graph(Observer(DigitsNet(width=4)), tmp_path / "a.onnx", (1, 8, 8))
    content = (tmp_path / "a.onnx").read_bytes()
    assert str(ROOT).encode() not in content
    assert b"site-packages" not in content
    assert b".py" not in content


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = Observer(DigitsNet(width=4))
    with pytest.raises(ValueError, match=r"ending in \.onnx, \.pt2, \.ts, \.torchscript, got 'a\.pt'"):
        save_graph(observer, tmp_path / "a.pt", (1, 8, 8))
    with pytest.raises(ValueError, match="DigitsNet cannot read images of"):
        save_graph(observer, tmp_path / "a.pt2", (3, 8, 8))
    with pytest.raises(IsADirectoryError):
        save_graph(observer, tmp_path, (1, 8, 8), format="pt2")
    pytest.importorskip("onnx")
    with monkeypatch.context() as old:
        name = "onnxscript._framework_apis.torch_9_9"
        missing = ModuleNotFoundError(f"No module named {name!r}", name=name)
        old.setattr(torch.onnx, "export", Mock(side_effect=missing))
        with pytest.raises(ModuleNotFoundError, match=r"needs a newer onnxscript: pip install --upgrade onnxscript"):
            save_graph(observer, tmp_path / "a.onnx", (1, 8, 8))
    monkeypatch.setattr(graph_files, "_LARGEST", 1000)
    with pytest.raises(ValueError, match="an ONNX file holds 2 GB"):
        save_graph(observer, tmp_path / "a.onnx", (1, 8, 8))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"ONNX needs the package onnx: pip install 'lightning-condkd\[onnx\]'"
    ):
        save_graph(observer, tmp_path / "a.onnx", (1, 8, 8))
    assert list(tmp_path.iterdir()) == []
