"""One small fit for every inversion method, distillation loss and training module, on the embedded digits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch

from lightning_condkd import distillation, inversion
from lightning_condkd.alignment import FeatureAlignment, MomentAlignment
from lightning_condkd.augment import CropFlip
from lightning_condkd.condensation import (
    ConditionalGAN,
    DistributionMatching,
    GradientMatching,
    MatchingPool,
    RepresentativeBatches,
    SelfDistillation,
    TrajectoryMatching,
    TrajectorySchedule,
)
from lightning_condkd.data import CondensedDataModule, CondensedSet, DigitsDataModule
from lightning_condkd.distillation import DistillationLoss, WeightedLosses
from lightning_condkd.inversion import (
    Contrastive,
    DiffDFKD,
    GeneratorSettings,
    Inversion,
    LiveInversion,
    Memory,
    NoInversion,
)
from lightning_condkd.models import CifarResNet, ConvNet, DigitsNet, FreshNetworks, Observer
from lightning_condkd.modules import Condensation, CondKD
from lightning_condkd.modules.classification import Classification
from lightning_condkd.modules.distillation import Distillation
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.modules.generative_condensation import GenerativeCondensation
from lightning_condkd.randomness import seeded_initialization
from lightning_condkd.rounds import Cadence

MEAN, STD = (0.3059,), (0.3754,)
STEPS, ROUNDS = 3, 2
CROP = CropFlip(1, 0.0)
NETWORK = partial(ConvNet, 10, image_size=8, in_channels=1, depth=2, width=16)


class Case(NamedTuple):
    """What is fitted.

    Args:
        module: makes a module that writes into the given folder.
        data: makes its datamodule.
        epochs: of the fit.
        prepare: what must have run on the CPU before; it writes into the same folder.
    """

    module: Callable[[Path], L.LightningModule]
    data: Callable[[], L.LightningDataModule] = partial(DigitsDataModule, 256, seed=0)
    epochs: int = ROUNDS
    prepare: Case | None = None


def teacher() -> Observer:
    """Return the packaged teacher."""
    return Observer(DigitsNet(), MEAN, STD, weights="package:digits-teacher.safetensors")


def methods() -> dict[str, type[Inversion]]:
    """Return every public method that synthesizes, but for DiffDFKD, whose packages the lent machine lacks."""
    public = {name: getattr(inversion, name) for name in inversion.__all__}
    classes = {n: c for n, c in public.items() if inspect.isclass(c) and issubclass(c, Inversion)}
    return {name: c for name, c in classes.items() if c not in (Inversion, LiveInversion, NoInversion, DiffDFKD)}


def losses() -> dict[str, type[DistillationLoss]]:
    """Return every public distillation loss; a new one is found by being exported."""
    public = {name: getattr(distillation, name) for name in distillation.__all__}
    classes = {n: c for n, c in public.items() if inspect.isclass(c) and issubclass(c, DistillationLoss)}
    return {name: c for name, c in classes.items() if c not in (DistillationLoss, WeightedLosses)}


def cases() -> dict[str, Case]:
    """Return all cases by name."""
    found = {f"CondKD {name}": Case(partial(_condkd, name), partial(_transfer, name)) for name in methods()}
    found |= {f"loss {name}": Case(partial(_with_loss, name), partial(_transfer, "Fast")) for name in losses()}
    moments = {"CondKD Fast, moments": Case(_with_moments, partial(_transfer, "Fast"))}
    return found | moments | {"Distillation": Case(_distillation)} | _others()


def _staged(width: int, seed: int) -> Observer:
    with seeded_initialization(torch.Generator().manual_seed(seed)):
        return Observer(CifarResNet(8, width=width, in_channels=1), MEAN, STD)


def _loss(name: str) -> DistillationLoss:
    sizes = {"negatives": 16, "size": 8, "token_size": 16, "depth": 1, "batch_multiplier": 2, "max_width": 16}
    kind = losses()[name]
    known = inspect.signature(kind).parameters
    return kind(**{argument: value for argument, value in sizes.items() if argument in known})


def _with_loss(name: str, folder: Path) -> CondKD:
    parts: dict[str, Any] = {
        "distillation": _loss(name),
        "augment": CROP,
        "student_optimizer": partial(torch.optim.SGD, lr=0.01),
    }
    return CondKD(_staged(8, 0), _staged(4, 1), _method("Fast"), **parts, seed=0)


def _distillation(folder: Path) -> Distillation:
    losses = {"hint": _loss("FitNet"), "memory": _loss("CRD"), "kd": _loss("KLDistillation")}
    return Distillation(_staged(8, 0), _staged(4, 1), WeightedLosses(losses, {"hint": 10.0}), augment=CROP, seed=0)


def _condkd(name: str, folder: Path) -> CondKD:
    return CondKD(teacher(), DigitsNet(width=16), _method(name), FeatureAlignment(), augment=CROP, seed=0)


def _with_moments(folder: Path) -> CondKD:
    alignment = MomentAlignment.pgdi(weight=1.0)
    return CondKD(teacher(), DigitsNet(width=16), _method("Fast"), alignment, augment=CROP, seed=0)


def _method(name: str) -> Inversion:
    method = methods()[name]
    sizes = {
        "cadence": Cadence(STEPS, STEPS),
        "batch_size": 20,
        "generator": GeneratorSettings(width=8, latent_size=16),
        "selection": "last",
        "augment": CROP,
        "contrastive": Contrastive(ring_size=40, ring_draws=20, head_size=8),
        "memory": Memory(share=1 / 3, batch_size=6, width=8),
        "images": _real_images(),
    }
    known = inspect.signature(method).parameters
    return method(**{name: value for name, value in sizes.items() if name in known})


def _transfer(name: str) -> CondensedDataModule:
    mix: Any = "union" if _method(name).source == "bank" else 0.25
    condensed = CondensedSet.load("package:digits-dm-1ipc.safetensors")
    return CondensedDataModule(condensed, batch_size=16, mix=mix, val_data=DigitsDataModule())


def _real_images() -> torch.Tensor:
    return DigitsDataModule().train_source.images[:60].float() / 255


def _others() -> dict[str, Case]:
    second = {"steps_per_epoch": STEPS, "seed": 0}
    networks = FreshNetworks(NETWORK, MEAN, STD)
    gradients = partial(GradientMatching, networks, real_batch=4, inner_steps=2, network_epochs=1)
    matching = {
        "DM": partial(DistributionMatching, networks, real_batch=4),
        "DM mirrored, representative": partial(
            DistributionMatching,
            networks,
            real_batch=2,
            mirrored=True,
            representative=RepresentativeBatches(1, pool=64),
        ),
        "DC": gradients,
        "DSA": partial(gradients, augment="dsa_digits"),
    }

    def condensation(method: Callable[[], Any], folder: Path) -> Condensation:
        return Condensation(method(), 2, output=folder / "set.safetensors", **second)

    def experts(folder: Path) -> ExpertTrajectories:
        return ExpertTrajectories(networks, output=folder / "experts", epochs=2, learning_rate=0.1, seed=0)

    def trajectories(folder: Path) -> Condensation:
        schedule = TrajectorySchedule(3, 1, 2, pixel_lr=0.1, step_size=0.05, step_size_lr=1e-7)
        method = TrajectoryMatching(networks, experts=folder / "experts", schedule=schedule)
        return Condensation(method, 2, output=folder / "set.safetensors", **second)

    def generative(folder: Path) -> GenerativeCondensation:
        normalized = FreshNetworks(partial(NETWORK, norm="batch"), MEAN, STD)
        pool = MatchingPool(normalized, size=2, lifetime=2, training_batches=1)
        gan, output = ConditionalGAN(latent_size=10, width=4, batch_size=8), folder / "set.safetensors"
        return GenerativeCondensation(
            pool, gan=gan, matching=SelfDistillation(batch_size=6), gan_epochs=1, output=output, **second
        )

    return {
        "Classification": Case(lambda folder: Classification(Observer(DigitsNet(), MEAN, STD), augment=CROP, seed=0)),
        **{f"Condensation {name}": Case(partial(condensation, method)) for name, method in matching.items()},
        "ExpertTrajectories": Case(experts),
        "Condensation MTT": Case(trajectories, prepare=Case(experts)),
        "GenerativeCondensation": Case(generative),
    }
