from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_condkd.condensation.expert_files import (
    KIND,
    TENSOR,
    ExpertFolder,
    ExpertInfo,
    flatten,
    layout,
    read_snapshot_header,
    snapshot_path,
    unflatten,
)
from lightning_condkd.files import pack, read_header
from lightning_condkd.models import ConvNet
from lightning_condkd.writing import write_atomic

NETWORK = ConvNet(3, image_size=8, depth=1, width=2)
NAMES, SHAPES = layout(NETWORK)
INFO = ExpertInfo("ConvNet", [0.5] * 3, None, NAMES, SHAPES, "ConvNet()", 2, {"learning_rate": 0.01}, {"sha256": "0"})


def write(folder: Path, expert: int, epoch: int, info: ExpertInfo = INFO) -> Path:
    """A snapshot whose numbers are 10 * expert + epoch."""
    path, header = snapshot_path(folder, expert, epoch), {**asdict(info), "expert": expert, "epoch": epoch}
    vector = torch.full_like(flatten(NETWORK), 10 * expert + epoch)
    write_atomic(path, pack(KIND, {TENSOR: vector}, header))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for expert in (0, 4):
        for epoch in range(3):
            write(tmp_path, expert, epoch)
    return tmp_path


def test_a_network_comes_back_from_its_vector() -> None:
    by_name = unflatten(flatten(NETWORK), NAMES, SHAPES)
    assert list(by_name) == [name for name, _ in NETWORK.named_parameters()]
    assert all(torch.equal(by_name[name], parameter) for name, parameter in NETWORK.named_parameters())


def test_the_vector_is_a_copy() -> None:
    for network in (ConvNet(3, image_size=8, depth=1, width=2), nn.Linear(2, 2, bias=False)):
        vector = flatten(network)
        before = vector.clone()
        nn.init.zeros_(next(network.parameters()))
        assert torch.equal(vector, before)


def test_what_was_written_is_read(folder: Path) -> None:
    experts = ExpertFolder(folder)
    assert (experts.experts, experts.info) == ([0, 4], INFO)
    assert experts.read(4, 2).unique().tolist() == [42]
    assert experts.read(0, 0).dtype == torch.float32
    assert read_header(KIND, snapshot_path(folder, 0, 1))["epoch"] == 1


def test_only_the_snapshots_that_are_asked_for_are_read(folder: Path) -> None:
    experts = ExpertFolder(folder)
    for epoch in (0, 1):
        snapshot_path(folder, 4, epoch).unlink()
    assert experts.read(4, 2).unique().tolist() == [42]


@pytest.mark.parametrize("change", [{"network": "VGG"}, {"mean": None}, {"training": {"learning_rate": 0.1}}])
def test_a_folder_with_several_runs_is_refused(folder: Path, change: dict[str, object]) -> None:
    write(folder, 4, 1, replace(INFO, **change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"expert_0004_epoch_0001.* of different runs.*{next(iter(change))}"):
        ExpertFolder(folder)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_expert_that_is_not_complete_is_refused(folder: Path, epoch: int) -> None:
    snapshot_path(folder, 4, epoch).unlink()
    with pytest.raises(ValueError, match=rf"expert 4 .* epochs \[{epoch}\]: resume the run"):
        ExpertFolder(folder)


def test_an_empty_folder_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="fit ExpertTrajectories"):
        ExpertFolder(tmp_path)
    other = tmp_path / "expert_other.safetensors"
    write_atomic(other, pack("condensed set", {"images": torch.zeros(1)}, {}))
    with pytest.raises(ValueError, match="holds: condensed set; expected: expert snapshot"):
        ExpertFolder(tmp_path)
    other.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"expected a safetensors file at .*expert_other\.safetensors"):
        read_snapshot_header(other)


def test_networks_that_parameters_do_not_describe_are_refused() -> None:
    with pytest.raises(ValueError, match=r"running_mean.*norm='instance'"):
        layout(ConvNet(3, image_size=8, depth=1, width=2, norm="batch"))
    with pytest.raises(ValueError, match="without running statistics and dropout"):
        layout(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))


def test_a_damaged_snapshot_is_found(folder: Path) -> None:
    path = snapshot_path(folder, 4, 1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    experts = ExpertFolder(folder)
    with pytest.raises(ValueError, match="altered or damaged"):
        experts.read(4, 1)
