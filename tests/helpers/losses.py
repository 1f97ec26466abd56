"""All distillation losses with small settings, and networks of three stages for them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lightning_condkd import distillation
from lightning_condkd.augment import CropFlip
from lightning_condkd.distillation import DistillationLoss, KLDistillation
from lightning_condkd.models import CifarResNet, Observer
from lightning_condkd.modules import CondKD
from lightning_condkd.randomness import seeded_generator, seeded_initialization
from tests.helpers import toy

SPECIAL: dict[str, Callable[[], DistillationLoss]] = {
    "CRD": lambda: distillation.CRD(negatives=8, size=8),
    "GenDD": lambda: distillation.GenDD(token_size=8, width=16, depth=1, batch_multiplier=2),
    "FeatureSampling": lambda: distillation.GenDD(token_size=8, width=16, depth=1, batch_multiplier=2),
    "OFAKD": lambda: distillation.OFAKD(["layer1", "layer2"]),
    "ReviewKD": lambda: distillation.ReviewKD(max_width=8),
    "WeightedLosses": lambda: distillation.WeightedLosses(
        {"hint": distillation.FitNet(), "kd": KLDistillation(4.0), "rkd": distillation.RKD()}, {"hint": 10.0}
    ),
}


def names() -> list[str]:
    """Return the names of all losses of the package."""
    found = [(name, getattr(distillation, name)) for name in distillation.__all__]
    losses = [n for n, kind in found if isinstance(kind, type) and issubclass(kind, DistillationLoss)]
    return [name for name in losses if name != "DistillationLoss"]


def make(name: str) -> DistillationLoss:
    return SPECIAL[name]() if name in SPECIAL else getattr(distillation, name)()


def network(width: int, purpose: str) -> CifarResNet:
    with seeded_initialization(seeded_generator(0, purpose)):
        return CifarResNet(8, toy.CLASSES, width=width, in_channels=toy.SHAPE[0])


def teacher() -> Observer:
    """Return a teacher whose statistics are those of random images, with distinct predictions."""
    made = network(4, "staged teacher")
    with torch.no_grad():
        for _ in range(20):
            made(torch.rand(64, *toy.SHAPE, generator=seeded_generator(0, "statistics")))
        made.linear.weight.mul_(4)
    return Observer(made, (0.25,), (0.5,))


def condkd(loss: DistillationLoss | str, **arguments: object) -> CondKD:
    given = {"teacher": teacher(), "student": network(2, "staged student"), "augment": CropFlip(1), **arguments}
    given.setdefault("student_optimizer", lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9))
    return toy.condkd(distillation=make(loss) if isinstance(loss, str) else loss, **given)
