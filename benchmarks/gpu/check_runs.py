"""Fits of one case on a device and at a precision, and what came out of them."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.gpu.check_cases import Case

UNSUPPORTED = re.compile(r"([\w:]+)(?: with [^.]*?)? does not have a deterministic implementation")


class Outcome(NamedTuple):
    """What a fit left behind.

    Args:
        terms: losses of the first epoch as logged; later ones follow from updates that rounding has parted.
        state: the module's floating point tensors and those of the files that it wrote, on the CPU in double.
        operators: operators that said that they cannot be deterministic.
    """

    terms: dict[str, float]
    state: dict[str, Tensor]
    operators: list[str]


def fit(
    case: Case,
    folder: Path,
    device: str,
    precision: str = "32-true",
    ckpt_path: Path | None = None,
    **trainer: Any,  # noqa: ANN401
) -> Outcome:
    """Fit a case from the same initial values.

    Args:
        case: what is fitted.
        folder: made anew for this fit and what it prepares.
        device: ``cuda`` or ``cpu``.
        precision: of the trainer.
        ckpt_path: checkpoint to resume from.
        trainer: other arguments of the trainer.
    """
    if case.prepare is not None:
        fit(case.prepare, folder, "cpu")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    torch.manual_seed(0)
    module, data = case.module(folder), case.data()
    quiet = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger")
    arguments = {**dict.fromkeys(quiet, False), "limit_train_batches": _batches(module), "limit_val_batches": 1}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        runner = L.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            max_epochs=case.epochs,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            callbacks=[first := _FirstEpoch(), *trainer.pop("callbacks", [])],
            **_precision(device, precision),
            **{**arguments, **trainer},
        )
        runner.fit(module, data, ckpt_path=ckpt_path)
    torch.use_deterministic_algorithms(False)
    operators = sorted({found[1] for one in said if (found := UNSUPPORTED.search(str(one.message)))})
    return Outcome(first.terms, _state(module, folder), operators)


def _batches(module: L.LightningModule) -> int | None:
    """Modules that draw their own images want all their steps; the others are cut down."""
    return None if hasattr(module, "steps_per_epoch") or hasattr(module, "inversion") else 3


class _FirstEpoch(L.Callback):
    """Keeps the losses that were logged in the first epoch."""

    def __init__(self) -> None:
        self.terms: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.terms:
            self.terms = {n: float(v) for n, v in trainer.callback_metrics.items() if not _is_count(n)}


def _precision(device: str, precision: str) -> dict[str, Any]:
    """Return the arguments; half precision starts at a scale that does not overflow, so that no step is skipped."""
    if precision == "16-mixed":
        return {"plugins": [MixedPrecision(precision, device, torch.amp.GradScaler(device, init_scale=256.0))]}
    return {"precision": precision}


def _is_count(name: str) -> bool:
    """Shares of a few images jump with the last digit of a logit."""
    return any(
        word in name for word in ("accuracy", "agreement", "share", "images", "alignment/real", "alignment/fake")
    )


def _state(module: L.LightningModule, folder: Path) -> dict[str, Tensor]:
    tensors = dict(module.state_dict())
    for file in sorted(folder.rglob("*.safetensors")):
        tensors |= {f"{file.relative_to(folder)}/{name}": value for name, value in load_file(file).items()}
    return {name: v.detach().cpu().double() for name, v in tensors.items() if v.is_floating_point()}


def worst_term(found: Mapping[str, float], expected: Mapping[str, float]) -> tuple[str, float]:
    """Return the logged loss that differs most, and by how much of its size (at least 0.1).

    Args:
        found: losses of one fit.
        expected: those of another.
    """
    if found.keys() != expected.keys():
        raise ValueError(f"expected the terms {sorted(expected)}, got {sorted(found)}")
    differences = {name: abs(found[name] - value) / max(abs(value), 0.1) for name, value in expected.items()}
    if not differences:
        return "none logged", 0.0
    worst = max(differences, key=lambda name: differences[name])
    return worst, differences[worst]


def distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[str, float]:
    """Return the tensor that differs most, by the norm of the difference over its own.

    Args:
        found: state of one fit.
        expected: that of another.
    """
    if found.keys() != expected.keys():
        raise ValueError(f"expected the tensors {sorted(expected)}, got {sorted(found)}")
    relative = {n: float((found[n] - v).norm() / v.norm().clamp(min=1e-12)) for n, v in expected.items()}
    worst = max(relative, key=lambda name: relative[name])
    return worst, relative[worst]


def equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Return whether two states are the same to the bit.

    Args:
        found: one.
        expected: the other.
    """
    return found.keys() == expected.keys() and all(torch.equal(found[name], v) for name, v in expected.items())


def infinite(state: Mapping[str, Tensor]) -> list[str]:
    """Return the tensors that are not finite, except for a loss that is kept as infinity before the first step.

    Args:
        state: of a fit.
    """
    return [name for name, value in state.items() if not name.endswith("kept_loss") and not value.isfinite().all()]
