"""Detection of divergence, before the results are evaluated or saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from lightning_condkd.distributed import first_over_ranks, mean_over_ranks
from lightning_condkd.messages import listed
from lightning_condkd.models.finite import all_finite, broken_parts, broken_tensors
from lightning_condkd.training.trainer_access import checkpoint_folder

STREAK = 8  # non-finite losses in a row that count as divergence with a gradient scaler, which skips such steps


class Seen(NamedTuple):
    """The losses of one step.

    Args:
        optimizer: name of the optimizer that takes the step.
        step: index of the step.
        names: names of the losses.
        values: their values, ``(len(names),)``.
    """

    optimizer: str
    step: int
    names: tuple[str, ...]
    values: Tensor

    @property
    def broken(self) -> dict[str, float]:
        """Values that are not finite, by name."""
        pairs = zip(self.names, self.values.tolist(), strict=True)
        finite = self.values.isfinite().tolist()
        return {name: value for (name, value), good in zip(pairs, finite, strict=True) if not good}


class LossWatch:
    """The losses of the steps since the last check, kept on their device until they are read.

    Example:
        >>> watch = LossWatch()
        >>> watch.add("student", 3, {"loss": torch.tensor(1.0)})
        >>> watch.add("student", 4, {"loss": torch.tensor(torch.nan)})
        >>> watch.finite(scaled=False), watch.finite(scaled=True), watch.first_broken(scaled=False).step
        (tensor(False), tensor(True), 4)
    """

    def __init__(self) -> None:
        self._seen: list[Seen] = []

    def add(self, optimizer: str, step: int, values: Mapping[str, Tensor]) -> None:
        """Record a step.

        Args:
            optimizer: name of the optimizer that takes it.
            step: its index.
            values: scalars on one device.
        """
        stacked = torch.stack([value.detach() for value in values.values()])
        self._seen.append(Seen(optimizer, step, tuple(values), stacked))

    def finite(self, scaled: bool) -> Tensor:
        """Return whether the losses were finite, a boolean scalar on their device.

        Args:
            scaled: whether a gradient scaler skips steps; then only several non-finite losses in a row count.
        """
        if not scaled:
            finite = [torch.cat([seen.values for seen in self._seen]).isfinite()] if self._seen else []
        else:
            finite = [_any_finite(tail).view(1) for tail in self._tails()]
        return torch.cat(finite).all() if finite else torch.ones((), dtype=torch.bool)

    def _tails(self) -> list[list[Seen]]:
        by_name: dict[str, list[Seen]] = {}
        for seen in self._seen:
            by_name.setdefault(seen.optimizer, []).append(seen)
        return [seen[-STREAK:] for seen in by_name.values() if len(seen) >= STREAK]

    def first_broken(self, scaled: bool) -> Seen | None:
        """Return the first step with a value that is not finite.

        Args:
            scaled: as in :meth:`finite`.
        """
        if scaled:
            return next((tail[0] for tail in self._tails() if not bool(_any_finite(tail))), None)
        return next((seen for seen in self._seen if not bool(seen.values.isfinite().all())), None)

    def clear(self, scaled: bool) -> None:
        """Forget the steps that were checked.

        Args:
            scaled: whether a gradient scaler skips steps; then the last steps, where a streak may begin, are kept.
        """
        counts: dict[str, int] = {}
        kept: list[Seen] = []
        for seen in reversed(self._seen if scaled else ()):
            counts[seen.optimizer] = counts.get(seen.optimizer, 0) + 1
            if counts[seen.optimizer] < STREAK:
                kept.append(seen)
        self._seen = kept[::-1]


def _any_finite(steps: Sequence[Seen]) -> Tensor:
    return torch.stack([seen.values.isfinite().all() for seen in steps]).any()


class LogitsWatch:
    """Record of NaN in the logits of an accuracy.

    Example:
        >>> watch = LogitsWatch()
        >>> watch.add("student", torch.tensor([[torch.nan, 1.0]]))
        >>> watch.pop("student", torch.device("cpu"))
        True
    """

    def __init__(self) -> None:
        self._broken: dict[str, Tensor] = {}

    def add(self, name: str, logits: Tensor) -> None:
        """Record a batch.

        Args:
            name: name of the network.
            logits: ``(N, K)``.
        """
        broken = logits.detach().isnan().any()
        self._broken[name] = self._broken[name] | broken if name in self._broken else broken

    def pop(self, name: str, device: torch.device) -> bool:
        """Return whether any logit was NaN on any rank, and reset the record.

        Args:
            name: name of the network.
            device: device for the communication between ranks.
        """
        broken = self._broken.pop(name, torch.zeros((), dtype=torch.bool))
        return bool(mean_over_ranks(broken.to(device).float()) > 0)


def scaler_at_work(trainer: L.Trainer) -> bool:
    """Return whether steps with a non-finite gradient are skipped, as in fp16-mixed.

    Args:
        trainer: the trainer.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and bool(scaler.is_enabled())


def has_diverged(module: L.LightningModule, watch: LossWatch, weights: Tensor) -> bool:
    """Return whether a loss, weight or statistic is not finite on any rank; the answer is the same on all.

    Args:
        module: the module in training.
        watch: its losses since the last check; cleared if all is finite.
        weights: whether weights and statistics are finite, see :func:`~lightning_condkd.models.finite.all_finite`.
    """
    scaled = scaler_at_work(module.trainer)
    finite = watch.finite(scaled).to(module.device) & weights.to(module.device)
    sound = bool(mean_over_ranks(finite.float()) == 1)
    if sound:
        watch.clear(scaled)
    return not sound


def stop_if_diverged(module: L.LightningModule, watch: LossWatch, network: nn.Module, what: str, cure: str) -> None:
    """End a run with one network and one optimizer if it has diverged.

    Args:
        module: the module in training.
        watch: its losses since the last check.
        network: the trained network.
        what: its name, for the message.
        cure: advice, for the message.

    Raises:
        FloatingPointError: if the run has diverged.
    """
    if has_diverged(module, watch, all_finite([network])):
        found = first_over_ranks(symptoms(module.trainer, watch, broken_parts(network)) or None)
        begin = f"{what} diverged in epoch {module.current_epoch + 1}: {found}"
        raise FloatingPointError(f"{begin}. {cure}{precision_cure(module.trainer)}. {where_to_resume(module.trainer)}")


def symptoms(trainer: L.Trainer, watch: LossWatch, broken: list[str]) -> str:
    """Return a description of the losses and tensors that are not finite on this rank; empty if all are finite.

    Args:
        trainer: the trainer.
        watch: the losses.
        broken: names of tensors.
    """
    seen, found = watch.first_broken(scaler_at_work(trainer)), []
    if seen is not None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in seen.broken.items())
        found.append(
            f"the loss of the optimizer {seen.optimizer!r} is not finite from step {seen.step} of the run on ({values})"
        )
    if broken:
        found.append(f"NaN or infinity in {listed(broken)}")
    return "; ".join(found)


def precision_cure(trainer: L.Trainer) -> str:
    """Return advice on the precision; empty if it is full already.

    Args:
        trainer: the trainer.
    """
    precision = str(trainer.precision)
    return (
        "" if precision in ("32-true", "64-true") else f", or set --trainer.precision 32-true in place of {precision}"
    )


def where_to_resume(trainer: L.Trainer) -> str:
    """Return advice on the last good checkpoint.

    Args:
        trainer: the trainer.
    """
    paths = [getattr(trainer, "ckpt_path", None)]
    for callback in trainer.checkpoint_callbacks:
        paths += [getattr(callback, name, None) for name in ("last_model_path", "best_model_path")]
        paths += getattr(callback, "best_k_models", {})
        paths += Path(checkpoint_folder(callback) or "nowhere").glob("by_time*.ckpt")
    there = [Path(path) for path in paths if path and Path(path).exists()]
    if not there:
        return "No checkpoint of this run was written before: start a new run"
    newest = max(there, key=lambda path: path.stat().st_mtime)
    return (
        f"The last good state on disk is {newest}; a run that resumes from it keeps the learning rates it was saved "
        "with, so start a new run to change them"
    )


def check_logits(watch: LogitsWatch, name: str, what: str, module: L.LightningModule) -> None:
    """Check that the logits of an accuracy are not NaN.

    Args:
        watch: record of the logits.
        name: name of the network.
        what: description of the network, for the message.
        module: the module that evaluates it.

    Raises:
        FloatingPointError: if a logit is NaN.
    """
    if watch.pop(name, module.device):
        raise FloatingPointError(
            f"logits of {what} on the real images are NaN, so it has no accuracy: its weights are too large: lower the "
            f"learning rate of its training{precision_cure(module.trainer)}"
        )


def check_measured(network: nn.Module, what: str) -> None:
    """Check before an evaluation outside a fit that the weights of a network are finite.

    Args:
        network: the network.
        what: its description, for the message.

    Raises:
        ValueError: if they are not.
    """
    if broken := broken_parts(network):
        raise ValueError(
            f"{what} holds NaN or infinity in {listed(broken)}: it is of a diverged run, use an earlier checkpoint"
        )


def check_checkpoint(state: Mapping[str, object]) -> None:
    """Check that a run is not resumed from a diverged one.

    Args:
        state: the state dict of a checkpoint.

    Raises:
        ValueError: if it holds NaN.
    """
    if broken := broken_tensors({name: value for name, value in state.items() if isinstance(value, Tensor)}):
        raise ValueError(f"the checkpoint holds NaN or infinity in {listed(broken)}: use one from before it diverged")
