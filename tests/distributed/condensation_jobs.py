"""What the processes do: a few iterations of a condensation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from lightning_condkd.augment import SiameseAugment
from lightning_condkd.condensation import (
    CondensationMethod,
    DistributionMatching,
    GradientMatching,
    RepresentativeBatches,
)
from lightning_condkd.condensation.parts.published_schedules import TrajectorySchedule
from lightning_condkd.condensation.trajectory_matching import TrajectoryMatching
from lightning_condkd.data import ImageDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.models import ConvNet, FreshNetworks
from lightning_condkd.modules import Condensation
from lightning_condkd.modules.condensation import _initial_pixels
from lightning_condkd.modules.experts import ExpertTrajectories

NETWORK = partial(ConvNet, 3, image_size=8, depth=1, width=4)
MEAN, STD = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)
AUGMENT = SiameseAugment()


class Uneven(ImageDataModule):
    """Classes of 12, 5 and 1 random images of 3x8x8: the last has none for the second rank."""

    def load(self, train: bool) -> ImageSource:
        labels = torch.tensor([0] * 12 + [1] * 5 + [2])
        images = torch.randint(256, (18, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return ImageSource(images, labels, ("many", "some", "one"))


def method(name: str, experts: str) -> CondensationMethod:
    networks = FreshNetworks(partial(NETWORK), MEAN, STD)
    match name:
        case "DM":
            return DistributionMatching(networks, real_batch=6, classes_per_part=2)
        case "DM, DREAM, FYI":
            return DistributionMatching(networks, real_batch=4, mirrored=True, representative=RepresentativeBatches(2))
        case "DC":
            return GradientMatching(networks, real_batch=6, inner_steps=3, network_epochs=2)
        case "DSA":
            return GradientMatching(networks, augment=AUGMENT, real_batch=6, inner_steps=2, network_epochs=1)
        case _:
            schedule = TrajectorySchedule(2, 1, 2, pixel_lr=1.0, step_size=0.05, step_size_lr=1e-4)
            return TrajectoryMatching(networks, experts=experts, schedule=schedule)


def _fit(module: L.LightningModule, folder: str, epochs: int) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        devices=torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        strategy="ddp" if torch.distributed.is_initialized() else "auto",
        precision="64-true",
        max_epochs=epochs,
        logger=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, Uneven(batch_size=6))


def train_experts(folder: str) -> None:
    torch.manual_seed(0)
    _fit(ExpertTrajectories(FreshNetworks(NETWORK, MEAN, STD), epochs=3, augment=AUGMENT, output=folder), folder, 6)


def condense(name: str, folder: str, experts: str) -> dict[str, Tensor]:
    """Return what was learned after four iterations."""
    arguments = {"steps_per_epoch": 4, "seed": 3, "learning_rate": 0.5, "init": "noise"}
    module = Condensation(method(name, experts), output=Path(folder) / "set.safetensors", **arguments)
    _fit(module, folder, 1)
    start = _initial_pixels(module._data, 1, "noise", 3)
    return {"moved": module._pixels.detach() - start, **{k: v.detach() for k, v in module.state_dict().items()}}
