"""Files of weights as training scripts leave them: endings, nests, records beside the weights, prefixes."""

from __future__ import annotations

import argparse
import collections
import copy
import json
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.cli import main
from lightning_condkd.models import DigitsNet, Observer, load_weights, read_state_dict
from lightning_condkd.models.weights import plain_state


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


RECORDS = {
    "epoch": 3,
    "best_acc1": np.float32(0.5),
    "acc": np.float64(0.5),
    "seen": np.int64(7),
    "done": np.bool_(True),
    "confusion": np.eye(3),
    "args": argparse.Namespace(lr=0.1, out=Path("runs"), nested=argparse.Namespace(seed=np.int32(1))),
    "history": collections.defaultdict(list, {"loss": [1.0]}),
    "loss": torch.tensor(0.5),
}


@pytest.fixture
def network() -> DigitsNet:
    return DigitsNet(3, width=4)


def loaded(path: Path) -> dict[str, Tensor]:
    other = DigitsNet(3, width=4)
    load_weights(other, path)
    return dict(other.state_dict())


def assert_equal(state: object, other: object) -> None:
    torch.testing.assert_close(state, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["a.th", "a.tar", "a.pth.tar", "pytorch_model.bin", "a.pyth", "a.PTH"])
def test_endings_in_circulation_are_read(network: DigitsNet, tmp_path: Path, name: str) -> None:
    torch.save(network.state_dict(), tmp_path / name)
    assert_equal(loaded(tmp_path / name), dict(network.state_dict()))


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "nest", ["model_state_dict", "model_state", "network", "weights", "params", "state_dict_ema", "whatever"]
)
def test_nests_and_records_in_circulation_are_read(
    network: DigitsNet, tmp_path: Path, nest: str, new_format: bool
) -> None:
    trained = copy.deepcopy(network)
    optimizer = torch.optim.Adam(trained.parameters())
    trained(torch.rand(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        **RECORDS,
        "optimizer": optimizer.state_dict(),
        "opt": optimizer.state_dict(),
        nest: network.state_dict(),
    }
    torch.save(content, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=new_format)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(loaded(tmp_path / "a.pth.tar"), dict(network.state_dict()))


def test_records_among_the_tensors_are_left_out(network: DigitsNet, tmp_path: Path) -> None:
    torch.save({**network.state_dict(), "epoch": 3, "args": argparse.Namespace()}, tmp_path / "a.pt")
    assert_equal(loaded(tmp_path / "a.pt"), dict(network.state_dict()))


def test_of_several_known_nests_the_first_is_taken_and_the_others_are_named(network: DigitsNet, tmp_path: Path) -> None:
    other = DigitsNet(3, width=4).state_dict()
    torch.save({"state_dict_ema": other, "state_dict": network.state_dict()}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="took the weights under 'state_dict', left out those under state_dict_ema"):
        assert_equal(loaded(tmp_path / "a.pt"), dict(network.state_dict()))


def test_several_networks_are_refused_by_name(network: DigitsNet, tmp_path: Path) -> None:
    torch.save({"teacher": network.state_dict(), "pupil": network.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="got several, under teacher, pupil: save the entry that you mean"):
        read_state_dict(tmp_path / "a.pt")
    both = {f"{part}.{name}": value for part in ("a", "b") for name, value in network.state_dict().items()}
    torch.save(both, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"fit under each of a\., b\.: save those that you mean"):
        loaded(tmp_path / "b.pt")


@pytest.mark.parametrize("attribute", ["model", "my_backbone.inner"])
def test_a_prefix_that_only_some_keys_have_is_taken_off_and_the_rest_is_named(
    network: DigitsNet, tmp_path: Path, attribute: str
) -> None:
    state = {f"{attribute}.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(3)}}, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match=rf"under '{attribute}\.' fit, left out loss\.weight"):
        assert_equal(loaded(tmp_path / "a.ckpt"), dict(network.state_dict()))


def test_a_checkpoint_of_a_users_lightning_module_is_read(network: DigitsNet, tmp_path: Path) -> None:
    class Users(L.LightningModule):
        def __init__(self, rate: float, where: Path) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.classifier, self.loss = network, nn.CrossEntropyLoss(torch.ones(3))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss: Tensor = self.loss(self.classifier(batch[0]), torch.zeros(2, dtype=torch.long))
            return loss

    trainer = L.Trainer(max_steps=1, logger=False, accelerator="cpu", default_root_dir=tmp_path)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(2, 1, 8, 8)), batch_size=2)
    trainer.fit(Users(0.1, tmp_path), loader)
    trainer.save_checkpoint(tmp_path / "users.ckpt")
    with pytest.warns(UserWarning, match=r"left out loss\.weight"):
        assert_equal(loaded(tmp_path / "users.ckpt"), dict(network.state_dict()))


def test_a_prefix_does_not_hide_unexpected_keys(network: DigitsNet, tmp_path: Path) -> None:
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({**state, "model.extra": torch.ones(2), "loss.weight": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"do not fit:\n  unexpected: extra \(2,\)$"):
        loaded(tmp_path / "a.pt")


def test_all_that_could_run_code_is_named_with_what_to_do(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"weight": torch.ones(1)}, "a": Payload(tmp_path / "ran"), "b": L.Trainer}, tmp_path / "a.pt"
    )
    with pytest.raises(ValueError, match=r"asks for lightning\..*Trainer, posix\.mkdir.*save only the weights"):
        read_state_dict(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_an_object_array_does_not_bring_code_along(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1), "a": np.array([Payload(tmp_path / "ran")], dtype=object)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="asks for"):
        read_state_dict(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_a_scripted_network_is_refused_with_advice(network: DigitsNet, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(network.eval(), torch.rand(1, 1, 8, 8)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"got a TorchScript archive: save torch\.jit\.load"):
        read_state_dict(tmp_path / "a.pt")


def compiled(network: nn.Module) -> nn.Module:
    wrapped: nn.Module = torch.compile(network, backend="eager")  # type: ignore[assignment]
    return wrapped


def test_compiled_wrappers_count_for_nothing_on_either_side(network: DigitsNet, tmp_path: Path) -> None:
    partly = copy.deepcopy(network)
    partly.features = compiled(partly.features)  # type: ignore[assignment]
    for name, source in {"plain": network, "whole": compiled(network), "partly": partly}.items():
        torch.save({"model": {f"net.{key}": value for key, value in source.state_dict().items()}}, tmp_path / name)
        path = (tmp_path / name).rename(tmp_path / f"{name}.pt")
        assert_equal(loaded(path), dict(network.state_dict()))
        target = compiled(DigitsNet(3, width=4))
        load_weights(target, path)
        assert_equal(plain_state(target), dict(network.state_dict()))
    assert len({Observer(n).fingerprint() for n in (network, compiled(network), partly)}) == 1


def test_a_teacher_as_it_circulates_is_measured_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = read_state_dict("package:digits-teacher.safetensors")
    torch.save({**RECORDS, "model_state_dict": state}, tmp_path / "best.pth.tar")
    network = {"class_path": "DigitsNet"}
    observer = {"network": network, "mean": [0.3059], "std": [0.3754], "weights": str(tmp_path / "best.pth.tar")}
    model = json.dumps({"network": {"class_path": "Observer", "init_args": observer}})
    arguments = ["--model=Classification", f"--model.init_args={model}", "--data=DigitsDataModule"]
    main(["test", *arguments, f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false"])
    accuracy = next(line for line in capsys.readouterr().out.splitlines() if "test/accuracy" in line).split()[-2]
    assert float(accuracy) > 0.98
