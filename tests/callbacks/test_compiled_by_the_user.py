"""A network that its owner compiled leaves under the names that it has without."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import nn

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.cli import main
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.models import DigitsNet, Observer, load_weights
from lightning_condkd.models.weights import plain_state
from lightning_condkd.modules import Classification, CondKD
from tests.helpers import toy


def compiled(network: nn.Module) -> nn.Module:
    wrapped: nn.Module = torch.compile(network, backend="eager")  # type: ignore[assignment]
    return wrapped


def partly_compiled(network: DigitsNet) -> nn.Module:
    network.features = compiled(network.features)  # type: ignore[assignment]
    return network


def model(student: nn.Module) -> CondKD:
    return toy.condkd(alignment=FeatureAlignment(), student=student)


def test_checkpoint_and_export_of_a_compiled_student_have_plain_names(tmp_path: Path) -> None:
    torch.compiler.reset()
    plain = toy.fit(model(toy.network("student 1")))
    for number, wrap in enumerate((compiled, partly_compiled)):
        student = wrap(toy.network("student 1"))  # type: ignore[arg-type]
        folder = tmp_path / str(number)
        saving = ModelCheckpoint(folder, filename="run")
        run = toy.fit(model(student), callbacks=[saving], enable_checkpointing=True, default_root_dir=folder)
        assert toy.same(run.state(), plain.state())
        names = torch.load(folder / "run.ckpt", weights_only=True)["state_dict"].keys()
        assert names == plain.model.state_dict().keys()
        main(["export", str(folder / "run.ckpt"), str(tmp_path / "student.safetensors")])
        assert toy.same(load_file(tmp_path / "student.safetensors"), toy.student_of(plain))


def test_a_compiled_student_resumes_from_the_checkpoint_of_a_plain_one_and_back(tmp_path: Path) -> None:
    torch.compiler.reset()
    whole = toy.fit(model(toy.network("student 1")))
    for number, wraps in enumerate(((nn.Identity(), compiled), (compiled, nn.Identity()), (compiled, partly_compiled))):
        first, second = (wrap(toy.network("student 1")) for wrap in wraps)
        folder = tmp_path / str(number)
        saving = ModelCheckpoint(folder, filename="cut", every_n_train_steps=14)
        saved = {"callbacks": [saving], "enable_checkpointing": True, "default_root_dir": folder}
        toy.fit(model(first), max_steps=14, **saved)
        resumed, data = model(second), CondensedDataModule(toy.condensed_set(), batch_size=8)
        toy.silent_trainer(max_epochs=3, default_root_dir=folder).fit(resumed, data, ckpt_path=folder / "cut.ckpt")
        assert toy.same(plain_state(second), toy.student_of(whole))


def test_a_compiled_teacher_is_the_same_teacher(tmp_path: Path) -> None:
    network = toy.network("teacher")
    prints = {Observer(wrapped).fingerprint() for wrapped in (network, compiled(copy.deepcopy(network)))}
    assert len(prints) == 1


def test_a_classifier_is_exported_under_plain_names(tmp_path: Path) -> None:
    module = Classification(Observer(compiled(DigitsNet(width=4)), mean=(0.3,), std=(0.3,)))
    module.export(tmp_path / "a.safetensors")
    fresh = DigitsNet(width=4)
    fresh.load_state_dict(load_file(tmp_path / "a.safetensors"), strict=True)
    load_weights(compiled(DigitsNet(width=4)), tmp_path / "a.safetensors")


def test_a_copy_of_a_compiled_observer_saves_and_loads_alike() -> None:
    observer = Observer(compiled(DigitsNet(width=4)))
    twin = copy.deepcopy(observer)
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    twin.load_state_dict(observer.state_dict())
    assert toy.same(dict(twin.state_dict()), dict(observer.state_dict()))
    assert toy.same(plain_state(twin.network), plain_state(observer.network))
    twin.load_state_dict({f"network.{name}": value for name, value in observer.network.state_dict().items()})
