"""State dicts, copies, other types and checkpoints of every module, before and after a fit."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.data import DigitsDataModule
from lightning_condkd.models import FreshNetworks
from tests.helpers import small_runs as tasks
from tests.helpers import toy

KINDS = ["condkd", "classification", "distillation", "condensation", "experts", "generative"]
BUILT_BY_A_FIT = ["condkd", "distillation", "generative"]  # by shapes that a state dict does not tell


def make(kind: str, folder: Path) -> tuple[Any, L.LightningDataModule]:
    torch.manual_seed(0)
    module, data, _ = getattr(tasks, kind)(folder)
    return module, data


def fit(module: Any, data: L.LightningDataModule, folder: Path, **options: Any) -> L.Trainer:
    options = {"max_epochs": 2, "limit_val_batches": 0, "default_root_dir": folder, **options}
    trainer = toy.silent_trainer(**options)
    trainer.fit(module, datamodule=data)
    return trainer


def fitted(kind: str, folder: Path) -> Any:
    module, data = make(kind, folder)
    fit(module, data, folder).save_checkpoint(folder / "end.ckpt")
    return module


def parts(kind: str, folder: Path) -> dict[str, Any]:
    """What ``load_from_checkpoint`` needs beside the file."""
    fresh = make(kind, folder)[0]
    if kind == "condkd":
        student = toy.network("another student")
        return {"teacher": fresh.teacher, "student": student, "inversion": toy.fast(), "alignment": FeatureAlignment()}
    if kind == "distillation":
        return {name: getattr(fresh, name) for name in ("teacher", "student", "distillation")}
    if kind == "experts":
        return {"networks": FreshNetworks(tasks.NETWORK)}
    names = {"classification": ["network"], "condensation": ["method"], "generative": ["pool", "gan", "matching"]}
    return {name: getattr(fresh, name) for name in names[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_is_loaded_strictly(kind: str, tmp_path: Path) -> None:
    fresh, _ = make(kind, tmp_path)
    fresh.load_state_dict(fresh.state_dict())
    module = fitted(kind, tmp_path)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert not toy.same(dict(module.state_dict()), state)
    assert not module.load_state_dict(state).missing_keys
    assert toy.same(dict(module.state_dict()), state)
    if kind in BUILT_BY_A_FIT:
        with pytest.raises(RuntimeError, match=r"Unexpected key(?s:.*)built by a fit; \w+.load_from_checkpoint builds"):
            fresh.load_state_dict(state)
    else:
        fresh.load_state_dict(state)
        assert toy.same(dict(fresh.state_dict()), state)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_or_unknown_is_still_an_error(kind: str, tmp_path: Path) -> None:
    module = fitted(kind, tmp_path)
    state = dict(module.state_dict())
    name = next(name for name in state if not name.startswith("teacher."))
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load_state_dict({**state, "something": torch.zeros(1)})


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_equal_and_can_be_trained(kind: str, tmp_path: Path) -> None:
    fresh, _ = make(kind, tmp_path)
    assert toy.same(dict(pickle.loads(pickle.dumps(fresh)).state_dict()), dict(fresh.state_dict()))
    module = fitted(kind, tmp_path)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    twin = copy.deepcopy(module)
    assert toy.same(dict(twin.state_dict()), state)
    fit(twin, make(kind, tmp_path)[1], tmp_path, max_epochs=4)
    assert not toy.same(dict(twin.state_dict()), state)
    assert toy.same(dict(module.state_dict()), state)


@pytest.mark.parametrize("kind", KINDS)
def test_all_parameters_take_another_type(kind: str, tmp_path: Path) -> None:
    module = fitted(kind, tmp_path)
    state = {name: value.double() for name, value in module.state_dict().items()}
    module.to(torch.float64)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}
    assert toy.same({name: value.double() for name, value in module.state_dict().items()}, state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_loaded_without_a_trainer(kind: str, tmp_path: Path) -> None:
    module = fitted(kind, tmp_path)
    loaded = type(module).load_from_checkpoint(tmp_path / "end.ckpt", **parts(kind, tmp_path))
    assert toy.same(dict(loaded.state_dict()), dict(module.state_dict()))


def test_a_loaded_condensation_goes_on_from_its_pixels_and_fits_its_data_alone(tmp_path: Path) -> None:
    module = fitted("condensation", tmp_path)
    given = parts("condensation", tmp_path)
    loaded = type(module).load_from_checkpoint(tmp_path / "end.ckpt", **given, output=tmp_path / "more.safetensors")
    trainer = fit(loaded, DigitsDataModule(seed=0), tmp_path, max_epochs=1, limit_train_batches=1)
    assert trainer.global_step == 1
    assert 0 < float((loaded.pixels - module.pixels).abs().max()) < 0.2
    other = type(module).load_from_checkpoint(tmp_path / "end.ckpt", **parts("condensation", tmp_path))
    other.ipc = 2
    with pytest.raises(ValueError, match=r"expected pixels \(20, 1, 8, 8\) .* ipc=2, got \(10, 1, 8, 8\)"):
        fit(other, DigitsDataModule(seed=0), tmp_path)
