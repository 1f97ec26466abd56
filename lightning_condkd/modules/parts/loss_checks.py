"""Checks of a distillation loss against the run that it is used in."""

from __future__ import annotations

import lightning as L

from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.inversion import Inversion
from lightning_condkd.steps.comparison import check_statistics
from lightning_condkd.training.run_length import dev_steps, round_length, student_rounds


def check_progress(loss: DistillationLoss, endless: bool) -> None:
    """Check that a run has an end if a loss changes with its progress.

    Args:
        loss: loss of the student.
        endless: whether the run has no end.

    Raises:
        ValueError: if it has none.
    """
    if loss.needs_progress and endless:
        name = type(loss).__name__
        raise ValueError(f"{name} changes during the run, which has no end here: set max_epochs or max_steps")


def check_run_of_loss(
    loss: DistillationLoss, inversion: Inversion, transfer_set: TransferSet, trainer: L.Trainer
) -> None:
    """Check that a run gives a loss what it needs.

    Args:
        loss: loss of the student.
        inversion: the method.
        transfer_set: the mixture of batches.
        trainer: the trainer.

    Raises:
        ValueError: if it does not.
    """
    name = type(loss).__name__
    check_progress(loss, student_rounds(trainer, inversion.cadence) is None)
    if loss.needs_teacher_graph and transfer_set.mix == "two_term":
        raise ValueError(
            f"{name} takes gradients of predictions with respect to maps, which are lost where a batch is split by "
            "source: take another mix than 'two_term'"
        )
    if inversion.teacher_statistics == "batch":
        check_statistics(loss)
    if loss.needs_slots and inversion.source == "live" and transfer_set.synthetic_per_batch:
        raise ValueError(
            f"{name} remembers each image, but {type(inversion).__name__} renders new ones in every step and stores "
            "none: choose a method that fills the memory bank, such as Fast, or a loss without a memory"
        )


def slots_of_run(
    loss: DistillationLoss, inversion: Inversion, transfer_set: TransferSet, trainer: L.Trainer | None
) -> int:
    """Return the number of different images in a run; 0 if the loss does not need it, or without a run.

    Args:
        loss: loss of the student.
        inversion: the method.
        transfer_set: the mixture of batches.
        trainer: the trainer; ``None`` if a checkpoint is only loaded.

    Raises:
        ValueError: if the bank grows without end.
    """
    if not loss.needs_slots or trainer is None:
        return 0
    rounds = student_rounds(trainer, inversion.cadence)
    if rounds is None and transfer_set.bank.capacity is None:
        raise ValueError(
            f"{type(loss).__name__} remembers each image, and this run has no end: set max_epochs or data.bank_capacity"
        )
    batches = inversion.cadence.batches_before((rounds or 0) + inversion.cadence.warmup_rounds)
    if dev_steps(trainer):
        batches = round_length(trainer, inversion.cadence)  # one in every step
    stores = inversion.cadence.synthesis_steps and inversion.source == "bank"
    made = batches * inversion.images_per_block() if stores else 0
    return transfer_set.slot_count(transfer_set.bank.images_seen + made)
