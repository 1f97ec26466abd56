"""Default schedules and schedules with a warm-up, and the student's default optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import ParamsT

from lightning_condkd.rounds import Cadence
from lightning_condkd.training.run_length import student_rounds


class RunCosine(LRScheduler):
    r"""Half a cosine from an optimizer's learning rates to a share of them, over the current length of the run.

    The length is not part of its state, so a run resumed with another length continues on the cosine of that length.

    Args:
        optimizer: the optimizer.
        length: steps of the schedule in the whole run.
        floor: final learning rate as a share of the initial one; it also applies after the end.

    Example:
        >>> import torch
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
        >>> schedule = RunCosine(optimizer, length=4)
        >>> schedule.load_state_dict({"last_epoch": 2})
        >>> round(optimizer.param_groups[0]["lr"], 6)
        0.1
    """

    def __init__(self, optimizer: Optimizer, length: int, floor: float = 0.0) -> None:
        self.length, self.floor = length, floor
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rates of the current step."""
        share = (1 + math.cos(math.pi * min(1.0, self.last_epoch / self.length))) / 2
        return [base * (self.floor + (1 - self.floor) * share) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, without values that each run configures."""
        return {name: value for name, value in super().state_dict().items() if name not in ("length", "floor")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step from the state of any scheduler, and set the learning rates of that step.

        Args:
            state_dict: result of ``state_dict``.
        """
        names = ("base_lrs", "last_epoch", "_step_count")
        super().load_state_dict({name: state_dict[name] for name in names if name in state_dict})
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


class WarmupMultiStep(LRScheduler):
    """Linear warm-up to an optimizer's learning rates, then a factor at each milestone.

    It is ``LinearLR`` followed by ``MultiStepLR``, which ``SequentialLR`` joins from objects only, so that a file of
    the command line cannot name them. In a module it is stepped once an epoch or round.

    Args:
        optimizer: the optimizer.
        warmup_iters: steps of the warm-up; the first one is at ``1 / warmup_iters`` of the learning rate.
        milestones: numbers of steps, from 0, after which the learning rate is multiplied by ``gamma``.
        gamma: the factor.

    Raises:
        ValueError: if the warm-up is shorter than one step.

    Example:
        >>> import torch
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule, rates = WarmupMultiStep(optimizer, warmup_iters=2, milestones=[4]), []
        >>> for _ in range(5):
        ...     rates += schedule.get_last_lr()
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.5, 1.0, 1.0, 1.0, 0.1]
    """

    def __init__(self, optimizer: Optimizer, warmup_iters: int, milestones: Sequence[int], gamma: float = 0.1) -> None:
        _check_warmup(warmup_iters)
        self.warmup_iters, self.milestones, self.gamma = warmup_iters, list(milestones), gamma
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rates of the current step."""
        passed = sum(self.last_epoch >= milestone for milestone in self.milestones)
        factor = min(1.0, (self.last_epoch + 1) / self.warmup_iters) * self.gamma**passed
        return [base * factor for base in self.base_lrs]


class WarmupCosine(LRScheduler):
    """Linear warm-up to an optimizer's learning rates, then half a cosine to a floor, which the last step reaches.

    In a module it is stepped once an epoch or round.

    Args:
        optimizer: the optimizer.
        total_iters: steps of the whole schedule.
        warmup_iters: steps of the warm-up; the first one is at ``1 / warmup_iters`` of the learning rate.
        floor: learning rate of the last step and after it; 1e-6 in the official code of GenDD.

    Raises:
        ValueError: if the warm-up is shorter than one step, or not shorter than the schedule.

    Example:
        >>> import torch
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule, rates = WarmupCosine(optimizer, total_iters=4, warmup_iters=2, floor=0.0), []
        >>> for _ in range(4):
        ...     rates += schedule.get_last_lr()
        ...     optimizer.step()
        ...     schedule.step()
        >>> [round(rate, 6) for rate in rates]
        [0.5, 1.0, 0.5, 0.0]
    """

    def __init__(self, optimizer: Optimizer, total_iters: int, warmup_iters: int, floor: float = 1e-6) -> None:
        _check_warmup(warmup_iters)
        if warmup_iters >= total_iters:
            raise ValueError(f"warmup_iters: expected fewer than total_iters={total_iters}, got {warmup_iters}")
        self.total_iters, self.warmup_iters, self.floor = total_iters, warmup_iters, floor
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rates of the current step."""
        if self.last_epoch < self.warmup_iters:
            return [base * (self.last_epoch + 1) / self.warmup_iters for base in self.base_lrs]
        done = (self.last_epoch + 1 - self.warmup_iters) / (self.total_iters - self.warmup_iters)
        share = (1 + math.cos(math.pi * min(1.0, done))) / 2
        return [self.floor + (base - self.floor) * share for base in self.base_lrs]


def _check_warmup(warmup_iters: int) -> None:
    if warmup_iters < 1:
        raise ValueError(f"warmup_iters: expected a number of steps, 1 at least, got {warmup_iters}")


def run_cosine(name: str, optimizer: Optimizer, trainer: L.Trainer) -> RunCosine:
    """Return a cosine to 0 over the steps of a run.

    Args:
        name: name of the argument that would replace it.
        optimizer: the optimizer.
        trainer: trainer with the limits of the run.

    Raises:
        ValueError: if the run has no end.
    """
    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise ValueError(f"the default {name} needs the run's length: set --trainer.max_epochs or give a scheduler")
    return RunCosine(optimizer, max(1, int(steps)))


def default_student_optimizer(parameters: ParamsT) -> Optimizer:
    """Return SGD, lr 0.2, momentum 0.9, weight decay 1e-4, as in the official code of Fast.

    Args:
        parameters: parameters to train, or groups of them.
    """
    return SGD(parameters, lr=0.2, momentum=0.9, weight_decay=1e-4)


def default_student_schedule(optimizer: Optimizer, trainer: L.Trainer, cadence: Cadence, floor: float) -> RunCosine:
    """Return a cosine over the student's rounds.

    Args:
        optimizer: optimizer of the student.
        trainer: trainer with the limits of the run.
        cadence: phases of a round and number of warm-up rounds.
        floor: final learning rate as a share of the initial one; see ``student_lr_floor`` of a method.

    Raises:
        ValueError: if the run has no end.
    """
    rounds = student_rounds(trainer, cadence)
    if rounds is None:
        raise ValueError("the default schedule ends with the run: set max_epochs or max_steps, or student_scheduler")
    return RunCosine(optimizer, max(1, rounds), floor)
