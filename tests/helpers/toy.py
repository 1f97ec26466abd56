"""A task so small that a whole run takes a blink: three classes, 8x8 grey images, networks of a few hundred weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.augment import CropFlip
from lightning_condkd.data import CondensedDataModule, CondensedSet, MemoryBank
from lightning_condkd.inversion import Fast, GeneratorSettings, Inversion
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.models.generators import ConvGenerator
from lightning_condkd.modules import CondKD
from lightning_condkd.randomness import seeded_generator, seeded_initialization
from lightning_condkd.rounds import Cadence
from lightning_condkd.types import TaskSpec

CLASSES, SHAPE, LATENT, SEED = 3, (1, 8, 8), 6, 5
CADENCE = Cadence(synthesis_steps=4, distill_steps=4, warmup_rounds=1)
CROP = CropFlip(padding=3)


def network(name: str, **arguments: Any) -> DigitsNet:
    """A function of its name: a classifier of several predictions whose BatchNorm statistics are not at rest."""
    generator = seeded_generator(0, name)
    with seeded_initialization(generator):
        classifier = DigitsNet(**{"num_classes": CLASSES, "width": 4, **arguments})
    for layer in classifier.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.copy_(0.3 * torch.randn(layer.num_features, generator=generator))
            layer.running_var.copy_(0.2 + torch.rand(layer.num_features, generator=generator))
    images = torch.randn(64, classifier.features[0].in_channels, 8, 8, generator=generator)
    with torch.no_grad():
        classifier.linear.weight.mul_(8)
        classifier.linear.bias.sub_(classifier.eval()(images).mean(0))
    return classifier.train()


def observed(classifier: nn.Module) -> Observer:
    return Observer(classifier, mean=(0.25,), std=(0.5,))


def small_generator(**arguments: Any) -> ConvGenerator:
    with seeded_initialization(seeded_generator(0, "generator")):
        return ConvGenerator(**{"image_shape": SHAPE, "latent_size": LATENT, "width": 2, **arguments})


def condensed_set(name: str = "condensed", per_class: int = 2, shape: tuple[int, int, int] = SHAPE) -> CondensedSet:
    labels = torch.arange(CLASSES).repeat(per_class)
    return CondensedSet(torch.rand(len(labels), *shape, generator=seeded_generator(0, name)), labels)


def changed(defaults: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in place of defaults; of the generator's settings those that are given."""
    generator = arguments.get("generator", GeneratorSettings()).over(defaults["generator"])
    return {**defaults, **arguments, "generator": generator}


def fast(**arguments: Any) -> Fast:
    generator = GeneratorSettings(latent_size=LATENT, lr=0.05, network=small_generator())
    defaults = {"cadence": CADENCE, "batch_size": 12, "generator": generator}
    rates = {"latent_lr": 1.0, "bn_weight": 2.0, "reset_round": None, "augment": CROP}
    return Fast(**changed({**defaults, **rates}, arguments))


def spec(**changes: Any) -> TaskSpec:
    return TaskSpec(SHAPE, CLASSES, embedding_size=8, bn_channels=(4, 4, 8))._replace(**changes)


def silent_trainer(**arguments: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(**{"accelerator": "cpu", "devices": 1, "enable_checkpointing": False, **quiet, **arguments})


class Run(NamedTuple):
    model: CondKD
    bank: MemoryBank
    trainer: L.Trainer

    @property
    def metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything that training made, the bank's bytes included."""
        return {**self.model.state_dict(), "bank": self.bank.images, "bank labels": self.bank.labels}


def condkd(inversion: Inversion | None = None, alignment: FeatureAlignment | None = None, **arguments: Any) -> CondKD:
    arguments = {"teacher": observed(network("teacher")), "student": network("student 1"), "augment": CROP, **arguments}
    return CondKD(inversion=fast() if inversion is None else inversion, alignment=alignment, seed=SEED, **arguments)


def fit(
    model: CondKD,
    *,
    mix: str | float = "union",
    condensed: CondensedSet | None = None,
    batch_size: int = 8,
    **trainer_arguments: Any,
) -> Run:
    condensed = condensed_set() if condensed is None else condensed
    data = CondensedDataModule(condensed, batch_size=batch_size, mix=mix)  # type: ignore[arg-type]
    trainer = silent_trainer(**{"max_epochs": 3, **trainer_arguments})
    trainer.fit(model, data)
    return Run(model, data.transfer_set.bank, trainer)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def student_of(run: Run) -> dict[str, Tensor]:
    return dict(run.model.student.network.state_dict())
