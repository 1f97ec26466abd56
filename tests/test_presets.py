"""The published protocols in configs/cifar100 and configs/imagenet take a step, with the rates that they state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.callbacks import Beta2Ramp
from lightning_condkd.parser import ReadableLightningParser
from tests.conftest import ROOT
from tests.helpers import toy

PRESETS = sorted(path for path in (ROOT / "configs").glob("*/*.yaml") if path.parent.name in ("cifar100", "imagenet"))
RATES = {  # of the first epoch
    "cifar100/resnet56_resnet20": 0.05,
    "imagenet/resnet34_resnet18": 0.1,
    "cifar100/gendd": 1e-3 / 50,
    "imagenet/gendd": 2e-3 / 10,
    "imagenet/gendd_unlabeled": 2e-3 / 20,
    "cifar100/gendd_stage1": 3e-3,
    "imagenet/gendd_stage1": 2e-3,
}


class First(L.Callback):
    """Learning rates and decay rates of the first step."""

    rates: tuple[list[float], list[Any]] = ([], [])

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == 0:
            groups = trainer.optimizers[0].param_groups
            self.rates = [group["lr"] for group in groups], [group.get("betas") for group in groups]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_preset_takes_a_step(path: Path) -> None:
    """On random images, in place of data and weights that are not in the repository."""
    content = yaml.safe_load(path.read_text())
    given, classes = content["model"]["init_args"], 100 if path.parent.name == "cifar100" else 1000
    given["image_shape"] = [3, 32, 32]
    given["teacher"]["init_args"]["weights"] = None
    if isinstance(given["student"], dict) and given["student"]["class_path"] == "Observer":
        assert given["student"]["init_args"].pop("weights").endswith("-gendd-stage1.safetensors")
    if path.parent.name == "imagenet" and path.stem in ("gendd", "gendd_unlabeled"):
        assert given["distillation"]["init_args"]["width"] == 1024
        given["distillation"]["init_args"]["width"] = 64  # for time; that of CIFAR-100 stays
    parser = ReadableLightningParser(exit_on_error=False)
    parser.add_lightning_class_args(L.LightningModule, "model", subclass_mode=True)
    module = parser.instantiate_classes(parser.parse_object({"model": content["model"]})).model
    loader = DataLoader(TensorDataset(torch.rand(4, 3, 32, 32), torch.arange(4) % classes), batch_size=2)
    ramps = [Beta2Ramp(**one["init_args"]) for one in content["trainer"].get("callbacks", [])]
    first = First()
    trainer = toy.silent_trainer(max_epochs=content["trainer"]["max_epochs"], max_steps=2, callbacks=[*ramps, first])
    trainer.fit(module, loader)
    assert bool(torch.cat([value.flatten() for value in module.student.parameters()]).isfinite().all())
    assert first.rates[0] == pytest.approx([RATES[f"{path.parent.name}/{path.stem}"]] * len(first.rates[0]))
    if ramps:
        assert first.rates[1] == [(0.9, pytest.approx(0.95 if path.parent.name == "cifar100" else 0.96))] * 3
