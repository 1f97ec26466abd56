"""A checkpoint is whole under its name, and one that is damaged or of another kind is refused in one line."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from safetensors.torch import save_file

from lightning_condkd import entry
from lightning_condkd.data import DigitsDataModule
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.models.weights import load_weights
from lightning_condkd.modules import Classification
from lightning_condkd.training.checkpoints import WholeCheckpointIO, write_whole
from tests.conftest import ROOT
from tests.helpers import toy
from tests.test_writing import full_disk, held

TEACHER = ["--config", str(ROOT / "configs" / "digits" / "teacher.yaml"), "--trainer.logger=false"]
CURE = "Take an earlier checkpoint of the run, or copy this one again"
WEIGHT = "network.network.stem.0.weight"


def classifier() -> Classification:
    return Classification(Observer(DigitsNet(width=32), [0.3059], [0.3754]))


def trainer_in(folder: Path, **arguments: Any) -> L.Trainer:
    saves = ModelCheckpoint(folder, filename="a", save_top_k=-1)
    quick = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0, "callbacks": [saves]}
    return toy.silent_trainer(**{"enable_checkpointing": True, **quick, **arguments})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a classifier."""
    folder = tmp_path_factory.mktemp("whole")
    trainer_in(folder).fit(classifier(), DigitsDataModule())
    return folder / "a.ckpt"


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of CondKD."""
    folder = tmp_path_factory.mktemp("distilled")
    toy.fit(toy.condkd(), enable_checkpointing=True, max_epochs=2, callbacks=[ModelCheckpoint(folder, filename="a")])
    return folder / "a.ckpt"


def flipped(path: Path, largest: torch.Tensor) -> bytes:
    """Return the bytes of a checkpoint with one bit of a tensor changed."""
    content = bytearray(path.read_bytes())
    place = content.find(largest.numpy().tobytes())
    assert place > 0
    content[place + 5] ^= 1
    return bytes(content)


def state(path: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return content


def bit(whole: Path, path: Path) -> None:
    path.write_bytes(flipped(whole, max(state(whole).values(), key=torch.Tensor.numel)))
    torch.load(path, weights_only=True)  # does not see it


DAMAGE: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "bit": (bit, r"damaged after it was written \(wrong checksum: Bad CRC-32 for file 'archive/data/\d+'\)"),
    "half": (lambda whole, path: path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2]), "cut off"),
    "end": (lambda whole, path: path.write_bytes(whole.read_bytes()[:-1]), "it is cut off or damaged"),
    "empty": (lambda whole, path: path.touch(), "it is empty"),
    "zeros": (lambda whole, path: path.write_bytes(bytes(5000)), "it is empty, or filled with zeros"),
    "text": (lambda whole, path: path.write_text("no checkpoint\n"), "it is a text file"),
    "page": (lambda whole, path: path.write_text("\n<!DOCTYPE html><title>404"), "it is a web page"),
    "pointer": (lambda whole, path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
    "folder": (lambda whole, path: path.mkdir(), "it is a folder|expected checkpoints in"),
    "safetensors": (lambda whole, path: save_file({"a": torch.zeros(3)}, path), "it is a safetensors file"),
}
OTHER: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "weights": (lambda whole, path: torch.save(state(whole), path), "no checkpoint of a run: expected state_dict and"),
    "nested": (lambda whole, path: torch.save({"state_dict": {}}, path), "expected pytorch-lightning_version in it"),
    "list": (
        lambda whole, path: torch.save([1, 2], path),
        "no checkpoint of a run: expected .* got a list",
    ),
    "absent": (lambda whole, path: None, r"no checkpoint at .*: check the path"),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what a command that must fail says at its end."""
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        entry.run_command(sys.argv[1:])
    said = str(ended.value) if isinstance(ended.value.code, str) else capsys.readouterr().err
    assert "weights_only" not in said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if "TRACEBACK" not in line and line.startswith(("error", "--ckpt"))]
    assert len(lines) == 1, said
    return lines[0]


@pytest.mark.parametrize("kind", [*DAMAGE, *OTHER])
def test_damaged_checkpoints_end_in_a_line(
    kind: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.ckpt"
    damage, found = {**DAMAGE, **OTHER}[kind]
    damage(whole, path)
    commands = [["test", *TEACHER, f"--ckpt_path={path}"], ["export", str(path), str(tmp_path / "o.pt")]]
    if kind in ("bit", "folder"):
        commands += [[stage, *TEACHER, f"--ckpt_path={path}"] for stage in ("fit", "validate")]
    for command in commands:
        said = typed(monkeypatch, capsys, *command)
        assert str(path) in said
        assert re.search(found, said), said
        assert kind in OTHER or CURE in said or "name the file of one" in said
    with pytest.raises((ValueError, FileNotFoundError), match=found):
        Classification.load_from_checkpoint(path, network=classifier().network)
    assert not (tmp_path / "o.pt").exists()


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind not in ("folder", "safetensors")])
def test_damaged_weights_are_refused(kind: str, whole: Path, tmp_path: Path) -> None:
    for ending in (".ckpt", ".pt", ".pth"):
        path = tmp_path / f"b{ending}"
        DAMAGE[kind][0](whole, path)
        network = DigitsNet(width=32)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(ValueError, match=rf"b\{ending}, but .*{DAMAGE[kind][1]}.*copy or download") as caught:
            load_weights(network, path)
        assert "weights_only" not in str(caught.value)
        assert toy.same(before, network.state_dict())


def test_weights_without_checksums_are_read(tmp_path: Path) -> None:
    network = DigitsNet(width=8)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(network.state_dict(), tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    load_weights(DigitsNet(width=8), tmp_path / "a.pt")


def test_a_checkpoint_of_another_module_is_named(
    whole: Path, distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = typed(monkeypatch, capsys, "test", *TEACHER, f"--ckpt_path={distilled}")
    assert "expected a checkpoint of Classification, got one of another module" in said
    other = torch.load(whole, weights_only=True)
    torch.save({name: value for name, value in other.items() if name != Classification.state_key}, tmp_path / "b.ckpt")
    said = typed(monkeypatch, capsys, "export", str(tmp_path / "b.ckpt"), str(tmp_path / "o.pt"))
    assert "expected a checkpoint of CondKD, Distillation or Classification" in said


def test_a_whole_checkpoint_is_exported_and_resumed(whole: Path, distilled: Path, tmp_path: Path) -> None:
    entry.main(["export", str(distilled), str(tmp_path / "o.safetensors")])
    trainer_in(tmp_path, max_epochs=2).fit(classifier(), DigitsDataModule(), ckpt_path=whole)
    assert (tmp_path / "a.ckpt").exists()


def test_checkpoints_go_past_the_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning writes there first, and copies where it is on another disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    trainer_in(tmp_path / "run").fit(classifier(), DigitsDataModule())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a.ckpt"]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    trainer.fit(classifier(), DigitsDataModule())
    before = held(tmp_path)
    with full_disk(), pytest.raises(OSError, match=r"a\.ckpt could not be written .*make room"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert held(tmp_path) == before
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    assert toy.same(state(tmp_path / "a.ckpt"), state(tmp_path / "b.ckpt"))


class Own(TorchCheckpointIO):
    """A plugin of the user's."""


def test_a_plugin_of_the_user_stays() -> None:
    chosen = {"none": None, "own": Own(), "async": AsyncCheckpointIO(), "async own": AsyncCheckpointIO(Own())}
    found = {}
    for name, plugin in chosen.items():
        trainer = toy.silent_trainer(plugins=plugin)
        write_whole(trainer)
        write_whole(trainer)
        used = trainer.strategy.checkpoint_io
        found[name] = [type(used), type(getattr(used, "checkpoint_io", None))]
    nothing = type(None)
    assert found == {
        "none": [WholeCheckpointIO, nothing],
        "own": [Own, nothing],
        "async": [AsyncCheckpointIO, WholeCheckpointIO],
        "async own": [AsyncCheckpointIO, Own],
    }


def test_remote_addresses_are_written_as_lightning_does(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"state_dict": {"x": torch.ones(2)}, "pytorch-lightning_version": L.__version__}
    WholeCheckpointIO().save_checkpoint(content, "memory://folder/a.ckpt")
    assert toy.same(WholeCheckpointIO().load_checkpoint("memory://folder/a.ckpt")["state_dict"], content["state_dict"])
