import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_condkd import assets
from lightning_condkd.models import CifarResNet, DigitsNet, load_weights, read_state_dict


@pytest.fixture
def network() -> DigitsNet:
    return DigitsNet(3, width=4)


def assert_equal(state: object, other: object) -> None:
    torch.testing.assert_close(state, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.pth", "a.ckpt"])
def test_every_kind_reads_back_what_was_saved(network: DigitsNet, tmp_path: Path, name: str) -> None:
    state = dict(network.state_dict())
    save_file(state, tmp_path / name) if name.endswith("s") else torch.save(state, tmp_path / name)
    assert_equal(read_state_dict(tmp_path / name), state)
    assert_equal(read_state_dict(str(tmp_path / name)), state)


@pytest.mark.parametrize("nests", [("state_dict",), ("model",), ("net",), ("model", "state_dict")])
def test_nested_state_dicts_are_unwrapped(network: DigitsNet, tmp_path: Path, nests: tuple[str, ...]) -> None:
    content = dict(network.state_dict())
    for nest in nests:
        content = {"epoch": 3, "optimizer": {"lr": 0.1}, nest: content}
    torch.save(content, tmp_path / "a.ckpt")
    assert_equal(read_state_dict(tmp_path / "a.ckpt"), dict(network.state_dict()))


def test_a_tensor_named_like_a_nest_stays(tmp_path: Path) -> None:
    torch.save({"model": torch.ones(2)}, tmp_path / "a.pt")
    assert read_state_dict(tmp_path / "a.pt")["model"].tolist() == [1, 1]


def test_packaged_files_are_read(network: DigitsNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "_FOLDER", tmp_path)
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    other = DigitsNet(3, width=4)
    load_weights(other, "package:teacher.safetensors")
    assert_equal(other.state_dict(), network.state_dict())


class Dangerous:
    ran = False

    def __reduce__(self) -> tuple[object, ...]:
        return setattr, (Dangerous, "ran", True)


def test_a_file_with_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(1)}, "payload": Dangerous()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"expected only tensors in .*a\.pt"):
        read_state_dict(tmp_path / "a.pt")
    assert not Dangerous.ran
    pickle.loads(pickle.dumps(Dangerous()))
    assert Dangerous.ran


def test_a_whole_pickled_network_is_refused(network: DigitsNet, tmp_path: Path) -> None:
    torch.save(network, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"save network\.state_dict\(\)"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 not weights")
    with pytest.raises(ValueError, match=r"expected (weights in|a safetensors file at) .*, but it is"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "found"), [([torch.ones(1)], "a list"), ({"epoch": 3}, "epoch: int"), ({}, "nothing")]
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=f"got {found}; save"):
        read_state_dict(tmp_path / "a.pt")


def test_an_unknown_kind_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.safetensors, \.pt, .* or \.pyth, got .*a\.pkl: rename"):
        read_state_dict(tmp_path / "a.pkl")
    with pytest.raises(FileNotFoundError, match=r"found none at .*a\.pt"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "network.", "net.", "_orig_mod.", "module._orig_mod.network."]
)
def test_prefixes_of_wrappers_are_taken_off(network: DigitsNet, tmp_path: Path, prefix: str) -> None:
    torch.save({prefix + name: value for name, value in network.state_dict().items()}, tmp_path / "a.pt")
    other = DigitsNet(3, width=4)
    load_weights(other, tmp_path / "a.pt")
    assert_equal(other.state_dict(), network.state_dict())


def test_a_prefix_that_belongs_to_the_network_stays(tmp_path: Path) -> None:
    network, other = (nn.ModuleDict({"model": nn.Linear(2, 2)}) for _ in range(2))
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "a.pt")
    load_weights(other, tmp_path / "a.pt")
    assert_equal(other.state_dict(), network.state_dict())


def test_mismatches_are_listed_key_by_key_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = CifarResNet(8, num_classes=7).state_dict()
    state["head.weight"] = state.pop("conv1.weight")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "a.pt")
    network = CifarResNet(8, num_classes=10)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="expected weights of CifarResNet in") as caught:
        load_weights(network, tmp_path / "a.pt")
    assert str(caught.value).splitlines()[1:] == [
        "  missing: conv1.weight (16, 3, 3, 3)",
        "  unexpected: head.weight (16, 3, 3, 3)",
        "  other shape: linear.weight expected (10, 64), got (7, 64)",
        "  other shape: linear.bias expected (10,), got (7,)",
    ]
    assert_equal(dict(network.state_dict()), before)


def test_counters_of_seen_batches_may_be_absent(network: DigitsNet, tmp_path: Path) -> None:
    state = {name: value for name, value in network.state_dict().items() if "num_batches_tracked" not in name}
    torch.save(state, tmp_path / "a.pt")
    other = DigitsNet(3, width=4)
    load_weights(other, tmp_path / "a.pt")
    assert_equal(other.state_dict(), network.state_dict())


def test_weights_take_the_dtype_of_the_network(network: DigitsNet, tmp_path: Path) -> None:
    torch.save(network.half().state_dict(), tmp_path / "a.pt")
    other = DigitsNet(3, width=4).double()
    load_weights(other, tmp_path / "a.pt")
    assert other.linear.weight.dtype == torch.float64
    assert torch.equal(other.linear.weight, network.linear.weight.double())
