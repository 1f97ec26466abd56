"""A run's record in its checkpoints: what it was made of, compared when it is resumed."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.modules.schedule import RunCosine

if TYPE_CHECKING:
    from lightning_condkd.modules.condkd import CondKD

Differences = dict[str, tuple[Any, Any]]
DEPTH = 4
REFUSED = {
    "condensed": "resume with the condensed set that the run began with, or start a new run without ckpt_path",
    "inversion.class": "resume with the run's own method, or start a new run without ckpt_path",
    "inversion.batch_size": "resume with the run's own inversion.batch_size: a block may be half done",
    "round_length": "resume with a cadence of as many steps a round: they number the steps and seed the draws",
}


def fingerprint(condensed: CondensedSet) -> str:
    """Return what tells a condensed set from others: its size and a hash of images, labels and soft labels.

    Args:
        condensed: the set.

    Example:
        >>> labels = torch.tensor([0, 1])
        >>> sets = [CondensedSet(torch.full((2, 1, 4, 4), value), labels) for value in (0.0, 0.0, 0.5)]
        >>> [fingerprint(one) == fingerprint(sets[0]) for one in sets]
        [True, True, False]
    """
    digest = hashlib.sha256()
    for tensor in (condensed.images, condensed.labels, condensed.soft_labels):
        if tensor is not None:
            digest.update(_hash(tensor).encode())
    return f"{len(condensed)} images, sha256 {digest.hexdigest()[:16]}"


def _hash(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return f"{tuple(tensor.shape)} {tensor.dtype} {hashlib.sha256(cast(Any, content.numpy())).hexdigest()[:16]}"


def settings(part: object, depth: int = DEPTH) -> dict[str, Any]:
    """Return the class of a part, its plain public attributes and those of the parts that its constructor took.

    Args:
        part: an object; of what it keeps, parameters, buffers and functions are left out, and a tensor is its hash.
        depth: how many parts within parts are looked into.

    Example:
        >>> from lightning_condkd.distillation import KLDistillation
        >>> settings(KLDistillation(4.0))
        {'class': 'KLDistillation', 'temperature': 4.0}
    """
    record: dict[str, Any] = {"class": type(part).__name__}
    arguments, own = _arguments(type(part)), getattr(part, "__dict__", {})
    for name in sorted(arguments | {name for name, value in own.items() if _simple(name, value)}):
        value = getattr(part, name, None)
        registered = isinstance(value, Tensor) and name not in own  # parameters and buffers are the state of the run
        known = None if registered else _plain(value, depth - 1)
        if known is not None:
            record[name] = known
    return record


def _simple(name: str, value: object) -> bool:
    plain = (bool, int, float, str, Path)
    values = value.values() if isinstance(value, Mapping) else (value,)
    return not name.startswith("_") and name != "training" and all(isinstance(v, plain) for v in values)


def _arguments(kind: type) -> set[str]:
    names: set[str] = set()
    for base in kind.__mro__:
        if inspect.isfunction(made := vars(base).get("__init__")) and base is not nn.Module:
            names |= set(inspect.signature(made).parameters)
    return names - {"self"}


def _plain(value: object, depth: int) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Tensor):
        return _hash(value)
    if value is None or depth < 0 or isinstance(value, (type, partial)):
        return None
    if is_dataclass(value):
        return {"class": type(value).__name__} | _mapping(asdict(value), depth)  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return _mapping(value, depth)
    if isinstance(value, Sequence):
        return [_plain(item, depth - 1) for item in value]
    return None if inspect.isroutine(value) else settings(value, depth)


def _mapping(values: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    return {str(name): _plain(value, depth - 1) for name, value in values.items()}


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a record within records as one, its names joined by dots.

    Args:
        record: the record.
        prefix: what the names begin with.

    Example:
        >>> flat({"mix": 0.5, "inversion": {"class": "Fast", "batch_size": 8}})
        {'mix': 0.5, 'inversion.class': 'Fast', 'inversion.batch_size': 8}
    """
    result: dict[str, Any] = {}
    for name, value in record.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return result


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Differences:
    """Return the names whose values differ, with the value of the checkpoint and the one of this run.

    Args:
        there: the record of the checkpoint.
        here: the one of this run.
    """
    first, second = flat(there), flat(here)
    names = [*first, *(name for name in second if name not in first)]
    return {n: (first.get(n), second.get(n)) for n in names if first.get(n) != second.get(n)}


def check_resumed(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Check that a resumed run is made of what the checkpoint's was made of, and say what differs.

    Args:
        there: the record of the checkpoint.
        here: the one of this run.

    Raises:
        ValueError: if what cannot be exchanged within a run differs.
    """
    found = differences(there, here)
    for name in (name for name in REFUSED if name in found):
        raise ValueError(
            f"the checkpoint's run has {_said(name, found)}: {REFUSED[name]}" + _others(found, besides=name)
        )
    say_differences(found, "from here on the run goes on with the new values; what came before was made with the old")


def say_differences(found: Differences, meaning: str) -> None:
    """Warn of what differs, all at once.

    Args:
        found: the differences.
        meaning: what follows from them.
    """
    if found:
        rank_zero_warn(
            f"this run differs from the checkpoint's: {'; '.join(_said(n, found) for n in found)}. {meaning}"
        )


def _said(name: str, found: Differences) -> str:
    there, here = ("none" if value is None else repr(value) for value in found[name])
    return f"{name} {there}, this one {here}"


def _others(found: Differences, besides: str) -> str:
    rest = [name for name in found if name != besides]
    return f" (other differences: {', '.join(rest)})" if rest else ""


def optimizer_settings(optimizers: Mapping[str, Optimizer], scheduler: LRScheduler | None) -> dict[str, Any]:
    """Return the classes and arguments of optimizers and of the student's schedule, as they were made.

    Args:
        optimizers: name to optimizer.
        scheduler: the student's schedule.
    """
    record = {name: {"class": type(one).__name__} | _mapping(one.defaults, DEPTH) for name, one in optimizers.items()}
    if scheduler is None or isinstance(scheduler, RunCosine):  # ours ends with the run, however long it is now
        return record
    changing = ("last_epoch", "optimizer")
    known = {name: _plain(value, 0) for name, value in vars(scheduler).items() if name in _arguments(type(scheduler))}
    kept = {name: value for name, value in known.items() if value is not None and name not in changing}
    return {**record, "student_scheduler": {"class": type(scheduler).__name__, **kept}}


class RunRecord:
    """The record of one module's run; it is made once a fit, as hashing takes a moment."""

    def __init__(self) -> None:
        self._parts: dict[str, Any] | None = None
        self._optimizers: dict[str, Any] = {}
        self._resumed: Mapping[str, Any] | None = None

    def setup(self) -> None:
        """Forget an earlier fit."""
        self._parts, self._optimizers, self._resumed = None, {}, None

    def of(self, module: CondKD) -> dict[str, Any]:
        """Return the record, JSON values only.

        Args:
            module: the module, its transfer set found.
        """
        return {**self._of_parts(module), "optimizers": self._optimizers}

    def check(self, there: Mapping[str, Any], seed: int, module: CondKD) -> None:
        """Check the module against the record of a checkpoint, see :func:`check_resumed`.

        Args:
            there: the record of the checkpoint.
            seed: the seed of the checkpoint.
            module: the module that resumes.
        """
        say_differences(differences({"seed": seed}, {"seed": module.seed}), "the checkpoint's seed is used")
        self._resumed = there
        check_resumed({n: value for n, value in there.items() if n != "optimizers"}, self._of_parts(module))

    def check_optimizers(self, names: Sequence[str], trainer: L.Trainer) -> None:
        """Look at the optimizers of this fit, and say where those of the checkpoint were made otherwise.

        Args:
            names: their names.
            trainer: the trainer, its optimizers made.
        """
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        optimizers = dict(zip(names, trainer.optimizers, strict=True))
        self._optimizers = optimizer_settings(optimizers, schedules[0] if schedules else None)
        if self._resumed is not None:
            found = differences(self._resumed["optimizers"], self._optimizers)
            meaning = (
                "the state of optimizers and schedules is the checkpoint's, rates included: the new values are not used"
            )
            say_differences(found, meaning)

    def _of_parts(self, module: CondKD) -> dict[str, Any]:
        if self._parts is None:
            self._parts = _record(module, cast(TransferSet, module.transfer_set))
        return self._parts


def _record(module: CondKD, transfer_set: TransferSet) -> dict[str, Any]:
    aligning = module.alignment is not None and module.alignment.active
    return {
        "condensed": fingerprint(transfer_set.condensed),
        "mix": transfer_set.mix,
        "batch_size": transfer_set.batch_size,
        "bank_capacity": transfer_set.bank.capacity,
        "round_length": module.inversion.cadence.length,
        "inversion": settings(module.inversion),
        "alignment": settings(module.alignment) if aligning else None,
        "distillation": settings(module.distillation),
        "augment": settings(module.augment),
        "student_gradient_clip": module.student_gradient_clip,
    }
