"""Length of a run in its current configuration, and checks that all phases fit into it."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, inf

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.inversion import Inversion, NoInversion
from lightning_condkd.rounds import Cadence, Unit

CADENCE = "inversion.cadence"


def dev_steps(trainer: L.Trainer) -> int:
    """Return the ``n`` of ``fast_dev_run=n``, 0 in any other run.

    Args:
        trainer: the trainer.
    """
    return int(getattr(trainer, "fast_dev_run", 0))


def round_length(trainer: L.Trainer, cadence: Cadence) -> int:
    """Return the number of training steps of a round.

    Args:
        trainer: with ``fast_dev_run=n`` there are n.
        cadence: phases of a round.
    """
    return min(dev_steps(trainer), cadence.length) or cadence.length


def units_of_step(trainer: L.Trainer, cadence: Cadence, epoch: int, batch_idx: int) -> list[Unit]:
    """Return the units of a training step: one, or in a ``fast_dev_run`` one of each phase, as after the warm-up.

    Args:
        trainer: the trainer.
        cadence: phases of a round.
        epoch: the trainer's current epoch.
        batch_idx: position of the batch in the epoch.
    """
    if not dev_steps(trainer):
        return [cadence.unit(epoch, batch_idx)]
    phases = min(1, cadence.synthesis_steps), min(1, cadence.distill_steps)
    short, first = Cadence(*phases, repeats=round_length(trainer, cadence)), sum(phases) * batch_idx
    units = (short.unit(0, position) for position in range(first, first + sum(phases)))
    return [unit._replace(round=cadence.warmup_rounds) for unit in units]


def run_steps(trainer: L.Trainer, length: int) -> int | None:
    """Return the number of training steps of a whole run; ``None`` if it has no end.

    Args:
        trainer: trainer with the limits of the run.
        length: steps of an epoch.
    """
    rounds, steps = trainer.max_epochs, trainer.max_steps
    ends = [rounds * length] if rounds is not None and rounds >= 0 else []
    return min([*ends, steps] if steps >= 0 else ends, default=None)


def run_epochs(trainer: L.Trainer) -> int | None:
    """Return the number of epochs of a whole run, of which the last may be cut short; ``None`` if it has no end.

    Args:
        trainer: trainer with the limits of the run, and with its training loader.
    """
    rounds, steps, length = trainer.max_epochs, trainer.max_steps, trainer.num_training_batches
    ends = [rounds] if rounds is not None and rounds >= 0 else []
    if steps >= 0 and 0 < length < inf:
        ends.append(ceil(steps * trainer.accumulate_grad_batches / length))
    return min(ends, default=None)


def units_of_run(trainer: L.Trainer, cadence: Cadence) -> Iterator[tuple[Unit, bool]]:
    """Yield the units of a run with an end, and for each whether it belongs to the last step of its round.

    Args:
        trainer: trainer with the limits of the run.
        cadence: phases of a round.
    """
    length = round_length(trainer, cadence)
    for step in range(run_steps(trainer, length) or 0):
        for unit in units_of_step(trainer, cadence, *divmod(step, length)):
            yield unit, step % length == length - 1


def student_rounds(trainer: L.Trainer, cadence: Cadence) -> int | None:
    """Return the number of rounds of a whole run with steps of the student; ``None`` if the run has no end.

    Args:
        trainer: trainer with the limits of the run.
        cadence: phases of a round.
    """
    if dev_steps(trainer):
        return 1
    steps = run_steps(trainer, cadence.length)
    if steps is None:
        return None
    return max(0, -(-(steps - cadence.batches * cadence.synthesis_steps) // cadence.length) - cadence.warmup_rounds)


def student_steps(trainer: L.Trainer, cadence: Cadence, unit: Unit) -> tuple[int, int | None]:
    """Return the number of the student's steps before a unit and in the whole run; ``None`` if the run has no end.

    Args:
        trainer: trainer with the limits of the run.
        cadence: phases of a round.
        unit: a distillation unit.
    """
    rounds, steps = student_rounds(trainer, cadence), cadence.distill_steps * cadence.repeats
    done = (unit.round - cadence.warmup_rounds) * steps + unit.block * cadence.distill_steps + unit.step
    return done, None if rounds is None else rounds * steps


def share_done(done: int, total: int | None) -> float:
    """Return the share of steps that are done, in [0, 1]; 0 if the run has no end.

    Args:
        done: number of steps that are done.
        total: number of steps in the whole run; ``None`` if it has no end.

    Example:
        >>> share_done(3, 4), share_done(5, 4), share_done(3, None)
        (0.75, 1.0, 0.0)
    """
    return min(1.0, done / total) if total else 0.0


def check_student_steps(trainer: L.Trainer, cadence: Cadence) -> None:
    """Check that the student is trained before the run ends; warn if there are no student steps.

    Args:
        trainer: trainer with the limits of the run.
        cadence: phases of a round.

    Raises:
        ValueError: if the run ends before the student's first step.
    """
    if not cadence.distill_steps:
        rank_zero_warn(f"{CADENCE}.distill_steps is 0: this run only synthesises, the student is not trained")
    elif student_rounds(trainer, cadence) == 0:
        warmup, before = cadence.warmup_rounds, cadence.batches * cadence.synthesis_steps
        raise ValueError(
            f"the student would never be trained: the run ends after {run_steps(trainer, cadence.length)} steps "
            f"(max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}), and {warmup} warm-up rounds of "
            f"{cadence.length} steps and {before} steps of synthesis come before its first one; lower "
            f"{CADENCE}.warmup_rounds (now {warmup}), or raise max_epochs to {warmup + 1} or more and max_steps, if "
            f"set, above {warmup * cadence.length + before}"
        )


def check_synthesis_steps(inversion: Inversion, transfer_set: TransferSet, resumed: bool) -> None:
    """Check that there are images for the student if the method has no synthesis steps.

    Args:
        inversion: the method.
        transfer_set: the mixture of batches, with the bank.
        resumed: whether generator or bank come from a checkpoint.

    Raises:
        ValueError: if all images would come from an empty bank.
    """
    if inversion.cadence.synthesis_steps or resumed or len(transfer_set.bank):
        return
    name = type(inversion).__name__
    if inversion.source == "live":
        rank_zero_warn(f"{CADENCE}.synthesis_steps is 0: the generator of {name} is not trained")
    elif transfer_set.mix == 0:
        cure = "" if isinstance(inversion, NoInversion) else f"set {CADENCE}.synthesis_steps above 0, or "
        raise ValueError(f"mix=0 draws from the bank alone, which {name} leaves empty here: {cure}raise data.mix")
    elif not isinstance(inversion, NoInversion):
        rank_zero_warn(
            f"{CADENCE}.synthesis_steps is 0: {name} makes no images, the student learns from condensed ones"
        )
