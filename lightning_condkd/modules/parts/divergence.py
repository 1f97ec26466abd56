"""Search for the diverged network among networks trained in turn, which affect each other's losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import lightning as L
from torch import nn
from torch.optim import Optimizer

from lightning_condkd.alignment import Alignment
from lightning_condkd.distributed import first_over_ranks
from lightning_condkd.inversion import DeepInversion
from lightning_condkd.messages import listed
from lightning_condkd.models.finite import broken_parts
from lightning_condkd.steps.optimizer_turns import LARGEST_PIXEL
from lightning_condkd.training.divergence import (
    LossWatch,
    Seen,
    precision_cure,
    scaler_at_work,
    symptoms,
    where_to_resume,
)

TRANSIENT = ("kept_", "running_")
_OF_THE_STUDENT = {"adversarial", "competition"}


class Trained(Protocol):
    """A module with the attributes that are checked: student and its loss, inversion, alignment, recorded losses."""

    student: Any
    distillation: Any
    inversion: Any
    alignment: Alignment | None
    losses: LossWatch

    @property
    def trainer(self) -> L.Trainer:
        """The trainer."""

    @property
    def current_epoch(self) -> int:
        """Index of the round."""


def transient(module: Trained) -> tuple[str, ...]:
    """Return prefixes of the names of the method's buffers that need not be finite.

    The kept images of a block are checked when they are stored. With a gradient scaler a skipped step may still change
    statistics, which methods reset or do not use.

    Args:
        module: the module.
    """
    return TRANSIENT if scaler_at_work(module.trainer) else TRANSIENT[:1]


def diverged(module: Trained, optimizers: Mapping[str, Optimizer], aligning: Alignment | None) -> Exception:
    """Return the error that ends a diverged run, with the network at fault and the settings to lower.

    Args:
        module: the module.
        optimizers: its optimizers by name.
        aligning: its alignment, if active.
    """
    culprit, found = first_over_ranks(_found(module, optimizers)) or ("student", "")
    network, round = _NETWORKS.get(culprit, culprit), module.current_epoch + 1
    begin = f"the {network} (optimizer {culprit!r}) diverged in round {round}"
    cure = f"Lower {_cure(culprit, module, aligning)}{precision_cure(module.trainer)}"
    end = where_to_resume(module.trainer)
    return FloatingPointError(f"{begin}: {found}. {cure}. {end}")


def _found(module: Trained, optimizers: Mapping[str, Optimizer]) -> tuple[str, str] | None:
    """Return the optimizer at fault and a description of values that are not finite on this rank, if there are any."""
    seen = module.losses.first_broken(scaler_at_work(module.trainer))
    by_optimizer = _broken_by_optimizer(module, optimizers)
    broken = [name for names in by_optimizer.values() for name in names]
    if seen is None and not broken:
        return None
    culprit = _culprit(seen, optimizers) if seen else next(iter(by_optimizer))
    return culprit, symptoms(module.trainer, module.losses, broken)


_NETWORKS = {
    "student": "student",
    "synthesis": "synthesis of the inversion",
    "meta": "meta-generator of the inversion",
    "replay": "replay memory of the inversion",
    "discriminator": "discriminator of the alignment",
}


def _culprit(seen: Seen, optimizers: Mapping[str, Optimizer]) -> str:
    """Return the optimizer whose steps caused a non-finite loss, which may be the loss of another one."""
    broken = set(seen.broken) - {"total"}
    if LARGEST_PIXEL in broken:
        return "synthesis"
    if seen.optimizer != "synthesis" or not broken:
        return seen.optimizer
    if all(name.startswith("alignment") for name in broken):
        return "discriminator" if "discriminator" in optimizers else "synthesis"
    return (
        "student" if {name for name in broken if not name.startswith("alignment")} <= _OF_THE_STUDENT else "synthesis"
    )


def _broken_by_optimizer(module: Trained, optimizers: Mapping[str, Optimizer]) -> dict[str, list[str]]:
    owners = {
        id(parameter): name
        for name, optimizer in optimizers.items()
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    aligning = module.alignment if "discriminator" in optimizers else None
    parts: dict[str, tuple[str, nn.Module | None]] = {
        "student": ("student", module.student),
        "distillation": ("student", module.distillation),
        "inversion": ("synthesis", module.inversion),
        "alignment": ("discriminator", aligning),
    }
    found: dict[str, list[str]] = {}
    for prefix, (default, part) in parts.items():
        for name in _broken(part, transient(module) if part is module.inversion else ()):
            tensor = dict(part.named_parameters()).get(name) if part is not None else None
            found.setdefault(owners.get(id(tensor), default), []).append(f"{prefix}.{name}")
    return found


def _broken(part: nn.Module | None, but: tuple[str, ...]) -> list[str]:
    return [] if part is None else [n for n in broken_parts(part) if not n.split(".")[-1].startswith(but)]


def _cure(culprit: str, module: Trained, aligning: Alignment | None) -> str:
    inversion = module.inversion
    if culprit == "student":
        return "the learning rate of student_optimizer, or set student_gradient_clip"
    if culprit == "discriminator" and aligning is not None:
        numbers = {name: getattr(aligning, name, None) for name in ("learning_rate", "weight")}
        return " or ".join(f"alignment.{name} ({value:g})" for name, value in numbers.items() if value is not None)
    if culprit == "replay":
        return "inversion.memory.lr"
    numbers = {name: value for name, value in vars(inversion).items() if isinstance(value, int | float) and value}
    rates = [
        f"inversion.{name.replace('generator_lr', 'generator.lr')} ({value:g})"
        for name, value in numbers.items()
        if name.endswith("_lr")
    ]
    rates += [f"inversion.optimizer.lr ({inversion.optimizer.lr:g})"] if isinstance(inversion, DeepInversion) else []
    weights = [f"inversion.{name}" for name in numbers if name.endswith("_weight") and culprit != "meta"]
    weights += [] if aligning is None or aligning.optimizer() is not None else ["alignment.weight"]
    return listed([*rates, *weights], 8) or "the learning rates and weights of the inversion"
