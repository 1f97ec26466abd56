"""What a run is made of, for its checkpoints, and what is said where a resumed run differs."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.training.schedules import RunCosine

Differences = dict[str, tuple[Any, Any]]
DEPTH = 4
NEW_RATES = "from here on the run goes on with the new values; what came before was made with the old"
OLD_RATES = (
    "the state of optimizers and schedules is the checkpoint's, rates included: the new values are not used. The "
    "default schedule always ends with the run"
)


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

    Attributes that its class names as ``recorded`` are among them.

    Args:
        part: an object; of what it keeps, parameters, buffers and functions are left out, and a tensor is its hash.
        depth: how many parts within parts are looked into.

    Example:
        >>> from lightning_condkd.distillation import KLDistillation
        >>> settings(KLDistillation(4.0))
        {'class': 'KLDistillation', 'temperature': 4.0}
    """
    record: dict[str, Any] = {"class": type(part).__name__}
    arguments, own = constructor_arguments(type(part)), getattr(part, "__dict__", {})
    arguments |= set(getattr(type(part), "recorded", ()))
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


def constructor_arguments(kind: type) -> set[str]:
    """Return the names that the constructors of a class and of its bases take.

    Args:
        kind: the class.
    """
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


def check_resumed(there: Mapping[str, Any], here: Mapping[str, Any], fixed: Mapping[str, str]) -> None:
    """Check that a resumed run is made of what the checkpoint's was made of, and say what differs.

    Args:
        there: the settings of the checkpoint's run.
        here: those of this run.
        fixed: what cannot be exchanged within a run, with the cure.

    Raises:
        ValueError: if what cannot be exchanged within a run differs.
    """
    found = differences(there, here)
    for name in (name for name in fixed if name in found):
        raise ValueError(f"the checkpoint's run has {_said(name, found)}: {fixed[name]}" + _others(found, besides=name))
    say_differences(found, NEW_RATES)


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
    """Return the classes and arguments of optimizers and of a schedule, as they were made.

    Args:
        optimizers: name to optimizer.
        scheduler: the schedule; ``None`` for none.
    """
    record = {name: {"class": type(one).__name__} | _mapping(one.defaults, DEPTH) for name, one in optimizers.items()}
    if scheduler is None:
        return record
    if isinstance(scheduler, RunCosine):  # ends with the run, however long it is now
        return {**record, "scheduler": {"class": RunCosine.__name__}}
    changing = ("last_epoch", "optimizer")
    known = {
        name: _plain(value, 0)
        for name, value in vars(scheduler).items()
        if name in constructor_arguments(type(scheduler))
    }
    kept = {name: value for name, value in known.items() if value is not None and name not in changing}
    return {**record, "scheduler": {"class": type(scheduler).__name__, **kept}}


def check_optimizers(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Check that a resumed run has the kinds of optimizers and schedules that the checkpoint's had.

    Args:
        there: :func:`optimizer_settings` of the checkpoint's run.
        here: those of this run.

    Raises:
        ValueError: if one is of another class, whose state means something else.
    """
    found = differences(there, here)
    for name in (name for name in found if name.endswith(".class")):
        raise ValueError(
            f"the checkpoint's run has {_said(name, found)}: the state in the checkpoint is that of its class, so "
            "resume with the run's own, or start a new run without ckpt_path"
        )
