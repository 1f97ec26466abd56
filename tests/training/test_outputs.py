"""What cannot be written is said before anything is trained, by every module and command."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_condkd import entry
from lightning_condkd.callbacks import RunSummary
from lightning_condkd.condensation import DistributionMatching
from lightning_condkd.condensation.generative import ConditionalGAN
from lightning_condkd.condensation.parts.matching_pool import MatchingPool
from lightning_condkd.data import CondensedSet, DigitsDataModule
from lightning_condkd.models import ConvNet, DigitsNet, FreshNetworks, Observer
from lightning_condkd.modules import Classification, Condensation, ExpertTrajectories, GenerativeCondensation
from lightning_condkd.training.resumable import ResumableModule
from tests.conftest import ROOT
from tests.helpers import toy

TEACHER = ["--config", str(ROOT / "configs" / "digits" / "teacher.yaml")]


def small() -> ConvNet:
    return ConvNet(10, image_size=8, in_channels=1, depth=2, width=4)


def module(kind: str, output: Path) -> ResumableModule:
    if kind == "classification":
        return Classification(Observer(DigitsNet(width=4)), output=output)
    if kind == "condensation":
        return Condensation(DistributionMatching(FreshNetworks(small)), output=output)
    if kind == "experts":
        return ExpertTrajectories(FreshNetworks(small), output=output.with_suffix(""), epochs=1, augment=None)
    pool = MatchingPool(FreshNetworks(small))
    return GenerativeCondensation(pool, 1, gan=ConditionalGAN(width=8, batch_size=8), output=output)


KINDS = ["classification", "condensation", "experts", "generative"]


class Untrained(L.Callback):
    """Fails as soon as a step is taken."""

    def on_train_batch_start(self, *_: object) -> None:
        pytest.fail("trained")


def trainer_in(folder: Path, **arguments: object) -> L.Trainer:
    return toy.silent_trainer(max_epochs=1, default_root_dir=folder, callbacks=[Untrained()], **arguments)


def held(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_cannot_be_written_is_refused_before_training(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken.safetensors").mkdir()
    (tmp_path / "taken").touch()
    taken = "is a file, expected a folder" if kind == "experts" else "is a folder, expected a file"
    wrong = {
        "taken.safetensors": taken,
        "file/a.safetensors": "would lie below .*file, which is a file",
        f"new/{'n' * 256}.safetensors": "File name too long",
    }
    for output, message in wrong.items():
        with pytest.raises(OSError, match=message):
            trainer_in(tmp_path).fit(module(kind, tmp_path / output), DigitsDataModule())
    assert held(tmp_path) == ["file", "taken", "taken.safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_too_small_is_told(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_condkd.writing.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"it needs at least 0\.0 MB.*make room") as caught:
        trainer_in(tmp_path).fit(module(kind, tmp_path / "a.safetensors"), DigitsDataModule())
    assert "a" in str(caught.value)
    assert not held(tmp_path)


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    for kind in KINDS:
        made = module(kind, tmp_path / f"{kind}.safetensors")
        given = trainer_in(tmp_path)
        given.callbacks = [one for one in given.callbacks if not isinstance(one, Untrained)]
        given.fit_loop.max_epochs = 1
        given.limit_train_batches = 1
        given.fit(made, DigitsDataModule())
        (target,) = made.outputs()
        files = list(target.path.rglob("*")) if target.folder else [target.path]
        written = sum(file.stat().st_size for file in files)
        assert target.folder or written - 6000 < target.size <= written, kind
        assert target.folder == (kind == "experts")


def test_folders_of_checkpoints_are_checked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        saves = ModelCheckpoint(folder)
        with pytest.raises(OSError, match=r"is a file, expected a folder|would lie below"):
            toy.fit(toy.condkd(), enable_checkpointing=True, callbacks=[saves, Untrained()])
    with pytest.raises(OSError, match="would lie below"):
        toy.fit(toy.condkd(), default_root_dir=tmp_path / "file" / "root", callbacks=[RunSummary(), Untrained()])
    assert held(tmp_path) == ["file"]


def test_a_dry_run_needs_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trainer = toy.silent_trainer(fast_dev_run=True)
    trainer.fit(module("classification", tmp_path / "file" / "a.safetensors"), DigitsDataModule())
    assert held(tmp_path) == ["file"]


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.run_command(sys.argv[1:])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return next(line for line in said.splitlines() if line.startswith("error"))


def test_commands_refuse_a_place_before_they_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, below = tmp_path / "set.safetensors", tmp_path / "file"
    CondensedSet(torch.rand(2, 1, 8, 8), torch.tensor([0, 1])).save(source)
    below.touch()
    monkeypatch.setattr("lightning_condkd.commands.convert.CondensedSet.load", lambda *_, **__: pytest.fail("read"))
    monkeypatch.setattr("lightning_condkd.commands.select._choose", lambda *_, **__: pytest.fail("chosen"))
    monkeypatch.setattr("lightning_condkd.commands.evaluate.train_and_test", lambda *_, **__: pytest.fail("trained"))
    data, long = "--data=DigitsDataModule", tmp_path / ("n" * 256)
    commands = [
        ["convert", str(source), "{}.safetensors"],
        ["convert", str(source), "{}.pt", "--format=dc"],
        ["convert", str(source), "{}", "--format=mtt"],
        ["convert", str(source), "{}", "--format=png"],
        ["export", str(tmp_path / "absent.ckpt"), "{}.pt"],
        ["export", str(tmp_path / "absent.ckpt"), "{}.safetensors"],
        ["evaluate", str(source), data, "--output={}.json"],
        ["select", "{}.safetensors", data, "--method=RandomSelection", "--ipc=1"],
    ]
    for command in commands:
        for place, message in ((below / "a", "would lie below"), (long, "File name too long")):
            said = refused(monkeypatch, capsys, *(part.format(place) for part in command))
            assert message in said, command
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    said = refused(monkeypatch, capsys, "convert", str(source), str(tmp_path / "out"), "--format=png")
    assert "not an empty folder" in said
    said = refused(monkeypatch, capsys, "convert", str(source), str(tmp_path / "o.bin"), "--format=dc")
    assert r"ending in .pt or .pth" in said
    assert held(tmp_path) == ["file", "out", "out/mine", "set.safetensors"]


def test_the_command_line_refuses_a_root_that_takes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lightning_logs").touch()
    for root in ("file", "file/below", "run", "n" * 256):
        said = refused(monkeypatch, capsys, "fit", *TEACHER, f"--trainer.default_root_dir={tmp_path / root}")
        assert "would lie below" in said or "is a file, expected a folder" in said or "File name too long" in said
    root = f"--trainer.default_root_dir={tmp_path / 'file'}"
    said = refused(monkeypatch, capsys, "fit", *TEACHER, root, "--trainer.logger=false")
    assert "is a file, expected a folder" in said
    assert held(tmp_path) == ["file", "run", "run/lightning_logs"]
