"""Records of a run's settings for its checkpoints, and their comparison with those of a resumed run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.hashing import content_hash
from lightning_condkd.training.schedules import RunCosine

Differences = dict[str, tuple[Any, Any]]
DEPTH = 4
NEW_RATES = "from here on the run uses the new values; earlier steps used the old ones"
OLD_RATES = (
    "the state of optimizers and schedules, rates included, is taken from the checkpoint: the new values are not used. "
    "The default schedule always ends with the run"
)


def fingerprint(condensed: CondensedSet) -> str:
    """Return an identifier of a condensed set: its size and a hash of images, labels and soft labels.

    Args:
        condensed: the set.

    Example:
        >>> import torch
        >>> labels = torch.tensor([0, 1])
        >>> sets = [CondensedSet(torch.full((2, 1, 4, 4), value), labels) for value in (0.0, 0.0, 0.5)]
        >>> [fingerprint(one) == fingerprint(sets[0]) for one in sets]
        [True, True, False]
    """
    tensors = (condensed.images, condensed.labels, condensed.soft_labels)
    digest = content_hash(*(_hash(tensor) for tensor in tensors if tensor is not None))
    return f"{len(condensed)} images, sha256 {digest[:16]}"


def _hash(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} {content_hash(tensor)[:16]}"


def settings(part: object, depth: int = DEPTH) -> dict[str, Any]:
    """Return the class of a part, its plain public attributes and those of the parts that its constructor was given.

    Attributes that its class names as ``recorded`` are among them, those that it names as ``unrecorded`` are not.

    Args:
        part: an object; its parameters, buffers and functions are left out, and tensors are represented by hashes.
        depth: depth to which nested parts are included.

    Example:
        >>> from lightning_condkd.distillation import KLDistillation
        >>> settings(KLDistillation(4.0))
        {'class': 'KLDistillation', 'temperature': 4.0}
    """
    record: dict[str, Any] = {"class": type(part).__name__}
    arguments, own = constructor_arguments(type(part)), getattr(part, "__dict__", {})
    arguments |= set(getattr(type(part), "recorded", ()))
    others = {name for name, value in own.items() if _simple(name, value)} - set(getattr(type(part), "unrecorded", ()))
    for name in sorted(arguments | others):
        value = getattr(part, name, None)
        registered = isinstance(value, Tensor) and name not in own  # parameters and buffers are state, not settings
        known = None if registered else _plain(value, depth - 1)
        if known is not None:
            record[name] = known
    return record


def _simple(name: str, value: object) -> bool:
    plain = (bool, int, float, str, Path)
    values = value.values() if isinstance(value, Mapping) else (value,)
    return not name.startswith("_") and name != "training" and all(isinstance(v, plain) for v in values)


def constructor_arguments(kind: type) -> set[str]:
    """Return the names of the constructor arguments of a class and of its bases.

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
    """Return a nested record as a flat one, with names joined by dots.

    Args:
        record: the record.
        prefix: prefix of the names.

    Example:
        >>> flat({"mix": 0.5, "inversion": {"class": "Fast", "batch_size": 8}})
        {'mix': 0.5, 'inversion.class': 'Fast', 'inversion.batch_size': 8}
    """
    result: dict[str, Any] = {}
    for name, value in record.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return result


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Differences:
    """Return the names whose values differ, with the values of the checkpoint and of this run.

    Args:
        there: record of the checkpoint.
        here: record of this run.
    """
    first, second = flat(there), flat(here)
    names = [*first, *(name for name in second if name not in first)]
    return {n: (first.get(n), second.get(n)) for n in names if first.get(n) != second.get(n)}


def check_resumed(there: Mapping[str, Any], here: Mapping[str, Any], fixed: Mapping[str, str]) -> None:
    """Check the settings of a resumed run against those of the checkpoint, and warn of differences.

    Args:
        there: settings of the checkpoint's run.
        here: settings of this run.
        fixed: settings that cannot change within a run, with advice.

    Raises:
        ValueError: if a setting differs that cannot change within a run.
    """
    found = differences(there, here)
    for name in (name for name in fixed if name in found):
        raise ValueError(f"the checkpoint's run has {_said(name, found)}: {fixed[name]}" + _others(found, besides=name))
    warn_of_differences(found, NEW_RATES)


def warn_of_differences(found: Differences, meaning: str) -> None:
    """Warn of all differences in one message.

    Args:
        found: the differences.
        meaning: their consequence.
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
    """Return the classes and initial arguments of optimizers and of a schedule.

    Args:
        optimizers: name to optimizer.
        scheduler: the schedule; ``None`` for none.
    """
    record = {name: {"class": type(one).__name__} | _mapping(one.defaults, DEPTH) for name, one in optimizers.items()}
    if scheduler is None:
        return record
    if isinstance(scheduler, RunCosine):  # follows the current length of the run
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
    """Check that a resumed run has optimizers and schedules of the same classes as the checkpoint's run.

    Args:
        there: :func:`optimizer_settings` of the checkpoint's run.
        here: those of this run.

    Raises:
        ValueError: if one has another class, for which the saved state is meaningless.
    """
    found = differences(there, here)
    for name in (name for name in found if name.endswith(".class")):
        raise ValueError(
            f"the checkpoint's run has {_said(name, found)}: the saved state belongs to that class, so "
            "resume with it, or start a new run without ckpt_path"
        )
