"""How the student is optimised unless the user says otherwise."""

from __future__ import annotations

import lightning as L
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from lightning_condkd.types import Cadence


def default_student_optimizer(student: nn.Module) -> Optimizer:
    """Return SGD, lr 0.2, momentum 0.9, weight decay 1e-4, as in the official code of Fast.

    Args:
        student: the network to train.
    """
    return SGD(student.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)


def default_student_schedule(optimizer: Optimizer, trainer: L.Trainer, cadence: Cadence) -> CosineAnnealingLR:
    """Return a cosine to a thousandth of the learning rate over the student's rounds, as in the official code of Fast.

    Args:
        optimizer: the student's.
        trainer: says how long the run is.
        cadence: says how many rounds are warm-up.

    Raises:
        ValueError: if the run has no end.
    """
    epochs, steps = trainer.max_epochs or 0, trainer.max_steps
    if epochs <= 0 and steps <= 0:
        raise ValueError("the default schedule ends with the run: set max_epochs or max_steps, or student_scheduler")
    rounds = epochs if epochs > 0 else -(-steps // cadence.length)
    eta_min = 1e-3 * optimizer.param_groups[0]["lr"]
    return CosineAnnealingLR(optimizer, T_max=max(1, rounds - cadence.warmup_rounds), eta_min=eta_min)
