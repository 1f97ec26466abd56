"""A small run of every module."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.augment import CropFlip
from lightning_condkd.condensation import ConditionalGAN, DistributionMatching, MatchingPool, SelfDistillation
from lightning_condkd.data import CondensedDataModule, DigitsDataModule
from lightning_condkd.distillation import FitNet, KLDistillation, WeightedLosses
from lightning_condkd.models import ConvNet, DigitsNet, FreshNetworks, Observer
from lightning_condkd.modules import Condensation
from lightning_condkd.modules.classification import Classification
from lightning_condkd.modules.distillation import Distillation
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.modules.generative_condensation import GenerativeCondensation
from tests.helpers import toy
from tests.helpers.callbacks import SaveAt

NETWORK = partial(ConvNet, 10, image_size=8, in_channels=1, depth=2, width=4)
EPOCHS = 4
Small = tuple[L.LightningModule, L.LightningDataModule, int]


def condkd(folder: Path, **changed: Any) -> Small:
    module = toy.condkd(alignment=FeatureAlignment(), **changed)
    return module, CondensedDataModule(toy.condensed_set(), batch_size=8), 8


def classification(folder: Path, width: int = 4, **changed: Any) -> Small:
    network = Observer(DigitsNet(width=width), (0.3,), (0.4,))
    given: dict[str, Any] = {"augment": CropFlip(1, 0.0), "seed": 0, **changed}
    return Classification(network, **given), DigitsDataModule(600, seed=0), 2


def distillation(folder: Path, width: int = 4, **changed: Any) -> Small:
    teacher = toy.observed(toy.network("teacher", num_classes=10, width=8))
    student = toy.network("student 1", num_classes=10, width=width)
    loss = WeightedLosses({"kd": KLDistillation(4.0), "hint": FitNet()})
    given: dict[str, Any] = {"distillation": loss, "augment": CropFlip(1, 0.0), "seed": 0, **changed}
    return Distillation(teacher, student, **given), DigitsDataModule(600, seed=0), 2


def condensation(folder: Path, **changed: Any) -> Small:
    method = DistributionMatching(FreshNetworks(NETWORK), real_batch=4)
    given: dict[str, Any] = {"output": folder / "set.safetensors", "steps_per_epoch": 3, "seed": 0, **changed}
    return Condensation(method, **given), DigitsDataModule(seed=0), 3


def experts(folder: Path, **changed: Any) -> Small:
    given: dict[str, Any] = {"output": folder / "experts", "epochs": 2, "seed": 0, **changed}
    return ExpertTrajectories(FreshNetworks(NETWORK), **given), DigitsDataModule(600, seed=0), 2


def generative(folder: Path, **changed: Any) -> Small:
    pool = MatchingPool(FreshNetworks(partial(NETWORK, norm="batch")), size=2, lifetime=2, training_batches=1)
    gan, matching = ConditionalGAN(latent_size=4, width=2, batch_size=4), SelfDistillation(batch_size=4)
    stages = {"gan_epochs": 1, "steps_per_epoch": 3, "seed": 0, "output": folder / "set.safetensors", **changed}
    return GenerativeCondensation(pool, gan=gan, matching=matching, **stages), DigitsDataModule(seed=0), 3


MODULES: dict[str, Callable[..., Small]] = {
    one.__name__: one for one in (condkd, classification, distillation, condensation, experts, generative)
}


class EpochMeans(L.Callback):
    """What was logged by the end of every epoch."""

    def __init__(self) -> None:
        self.by_epoch: dict[int, dict[str, float]] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.by_epoch[trainer.current_epoch] = {n: float(value) for n, value in trainer.callback_metrics.items()}


def fit(
    small: Small,
    folder: Path,
    save: int = 1,
    ckpt_path: Path | None = None,
    callbacks: Sequence[L.Callback] = (),
    **arguments: Any,
) -> dict[str, Tensor]:
    """Fit for four epochs, keep a checkpoint ``{save}.ckpt`` of one step, and return the state at the end."""
    torch.manual_seed(0)
    module, data, _ = small
    saving = [SaveAt(save, folder / f"{save}.ckpt"), *callbacks]
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options: dict[str, Any] = {"limit_val_batches": 0, "default_root_dir": folder, "callbacks": saving, **quiet}
    trainer = L.Trainer(accelerator="cpu", max_epochs=EPOCHS, **{**options, **arguments})
    trainer.fit(module, data, ckpt_path=ckpt_path)
    assert trainer.current_epoch == EPOCHS
    layers: nn.Module = module
    return {**layers.state_dict(), "steps": torch.tensor(trainer.global_step)}
