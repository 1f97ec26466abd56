"""A run that is resumed at the end of an epoch, and once more after that, ends as the run that was left alone."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.augment import CropFlip
from lightning_condkd.condensation import ConditionalGAN, DistributionMatching, MatchingPool, SelfDistillation
from lightning_condkd.data import CondensedDataModule, DigitsDataModule
from lightning_condkd.models import ConvNet, DigitsNet, Observer
from lightning_condkd.modules import Condensation
from lightning_condkd.modules.classification import Classification
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.modules.generative_condensation import GenerativeCondensation
from tests.callbacks import SaveAt
from tests.inversion import toy

NETWORK = partial(ConvNet, 10, image_size=8, in_channels=1, depth=2, width=4)
EPOCHS = 4


def condkd(folder: Path) -> tuple[L.LightningModule, L.LightningDataModule, int]:
    return toy.condkd(alignment=FeatureAlignment()), CondensedDataModule(toy.condensed_set(), batch_size=8), 8


def classification(folder: Path) -> tuple[L.LightningModule, L.LightningDataModule, int]:
    network = Observer(DigitsNet(width=4), (0.3,), (0.4,))
    return Classification(network, augment=CropFlip(1, 0.0), seed=0), DigitsDataModule(600, seed=0), 2


def condensation(folder: Path) -> tuple[L.LightningModule, L.LightningDataModule, int]:
    method = DistributionMatching(NETWORK, real_batch=4)
    module = Condensation(method, output=folder / "set.safetensors", steps_per_epoch=3, seed=0)
    return module, DigitsDataModule(seed=0), 3


def experts(folder: Path) -> tuple[L.LightningModule, L.LightningDataModule, int]:
    return ExpertTrajectories(NETWORK, output=folder / "experts", epochs=2, seed=0), DigitsDataModule(600, seed=0), 2


def generative(folder: Path) -> tuple[L.LightningModule, L.LightningDataModule, int]:
    pool = MatchingPool(partial(NETWORK, norm="batch"), size=2, lifetime=2, training_batches=1)
    gan, matching = ConditionalGAN(latent_size=4, width=2, batch_size=4), SelfDistillation(batch_size=4)
    stages = {"gan_epochs": 1, "steps_per_epoch": 3, "seed": 0, "output": folder / "set.safetensors"}
    return GenerativeCondensation(pool, gan=gan, matching=matching, **stages), DigitsDataModule(seed=0), 3


def fit(
    make: Callable[..., Any], folder: Path, save: int, ckpt_path: Path | None = None, **arguments: Any
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module, data, _ = make(folder)
    saving = SaveAt(save, folder / f"{save}.ckpt")
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options: dict[str, Any] = {
        "limit_val_batches": 0,
        "default_root_dir": folder,
        "callbacks": [saving],
        **quiet,
        **arguments,
    }
    trainer = L.Trainer(accelerator="cpu", max_epochs=EPOCHS, **options)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    assert trainer.current_epoch == EPOCHS
    layers: nn.Module = module
    return {**layers.state_dict(), "steps": torch.tensor(trainer.global_step)}


@pytest.mark.parametrize("make", [condkd, classification, condensation, experts, generative])
def test_a_run_that_is_resumed_twice_takes_no_step_twice(make: Callable[..., Any], tmp_path: Path) -> None:
    length = make(tmp_path)[2]
    end, middle = length, 2 * length + 1  # the last step of the first epoch, a step within the third
    whole = fit(make, tmp_path, end)
    again = fit(make, tmp_path, middle, tmp_path / f"{end}.ckpt")
    last = fit(make, tmp_path, EPOCHS * length, tmp_path / f"{middle}.ckpt")
    assert toy.same(whole, again)
    assert toy.same(whole, last)


@pytest.mark.parametrize("make", [condkd, classification, condensation, experts, generative])
def test_a_run_in_double_resumes_to_the_bit(make: Callable[..., Any], tmp_path: Path) -> None:
    """Its networks are made in single precision, and Lightning would convert them after it has loaded."""
    middle = 2 * make(tmp_path)[2] + 1
    whole = fit(make, tmp_path, middle, precision="64-true")
    assert toy.same(whole, fit(make, tmp_path, EPOCHS * middle, tmp_path / f"{middle}.ckpt", precision="64-true"))
