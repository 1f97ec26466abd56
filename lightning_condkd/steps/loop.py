"""The two phases of a block as plain PyTorch loops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.optim import Optimizer

from lightning_condkd.alignment import Alignment
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.inversion import Inversion
from lightning_condkd.inversion.interfaces import Mode, Observe
from lightning_condkd.messages import listed
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Phase, Unit
from lightning_condkd.steps.distillation import DistillationStep
from lightning_condkd.steps.optimizer_turns import OptimizerTurns
from lightning_condkd.steps.synthesis import SynthesisStep
from lightning_condkd.types import Synthetic


def synthesize(
    inversion: Inversion,
    optimizers: Mapping[str, Optimizer],
    teacher: Observe,
    student: Observe,
    round: int,
    seed: int = 0,
    *,
    alignment: Alignment | None = None,
    transfer_set: TransferSet | None = None,
    block: int = 0,
    batch: int = 0,
) -> Synthetic:
    """Run the synthesis steps of a batch and return the images that it keeps, as CondKD does on one process.

    Args:
        inversion: the method, built.
        optimizers: result of ``inversion.optimizers()``, and as ``discriminator`` that of the alignment if it has one;
            keep them from round to round. Parameters of other optimizers, such as a ``student``, get no gradient here.
        teacher: the frozen teacher.
        student: the student. A module is in the mode of ``inversion.student_mode`` during the call, and afterwards in
            its own mode; a function is taken as it is.
        round: number of the round, from 0.
        seed: seed of the run.
        alignment: the alignment with condensed images, built; ``None`` for plain inversion.
        transfer_set: source of the alignment's condensed images.
        block: number of the block in the round, from 0.
        batch: number of the synthesis batch in the block, from 0.

    Returns:
        The images to store ``(N, C, H, W)``, pixels in the units of [0, 1], and labels ``(N,)``. The next call
        overwrites them.

    Raises:
        ValueError: if an optimizer is missing, or only one of alignment and transfer set is given.
    """
    if (alignment is None) != (transfer_set is None):
        given, missing = ("transfer_set", "alignment") if alignment is None else ("alignment", "transfer_set")
        raise ValueError(f"synthesize: got {given} and no {missing}: alignment compares with images of a transfer set")
    active = alignment if alignment is not None and alignment.active else None
    _check_optimizers(
        optimizers, [*inversion.optimizers(), *(["discriminator"] if active and active.optimizer() else [])]
    )
    step = SynthesisStep(teacher, student, inversion, active, transfer_set)
    turns = OptimizerTurns(optimizers)
    with _in_mode(student, inversion.student_mode):
        for unit in _units(inversion.cadence, "synthesize", round, block, batch):
            step.take(unit, Draw(seed, unit.counter), turns)
            if unit.last:
                step.finish(unit, turns)
    return inversion.collect()


def distill(
    step: DistillationStep,
    optimizers: Mapping[str, Optimizer],
    round: int,
    seed: int = 0,
    *,
    gradient_clip: float | None = None,
    block: int = 0,
    progress: float = 1.0,
) -> None:
    """Run the student steps of a block, as CondKD does on one process; none in a warm-up round.

    Args:
        step: the student's step, with the student in train mode.
        optimizers: the ``student``'s, and ``replay`` if the method has one; keep them from round to round.
        round: number of the round, from 0.
        seed: seed of the run.
        gradient_clip: largest norm of the student's gradient; ``None`` for no limit.
        block: number of the block in the round, from 0.
        progress: share of the student's steps in the run that are done, in [0, 1], for a loss that changes with it.

    Raises:
        ValueError: if an optimizer is missing, or the student's lacks parameters of the loss.
    """
    _check_optimizers(optimizers, ["student", *(step.inversion.optimizers().keys() & {"replay"})])
    _check_holds(optimizers["student"], step.distillation)
    turns = OptimizerTurns(optimizers)
    for unit in _units(step.inversion.cadence, "distill", round, block):
        step.take(unit, Draw(seed, unit.counter), turns, gradient_clip, progress)


@contextmanager
def _in_mode(student: object, mode: Mode) -> Iterator[None]:
    layers = list(student.modules()) if isinstance(student, nn.Module) else []
    own = [layer.training for layer in layers]
    for layer in layers[:1]:
        layer.train(mode == "train")
    try:
        yield
    finally:
        for layer, training in zip(layers, own, strict=True):
            layer.training = training


def _units(cadence: Cadence, phase: Phase, round: int, block: int, batch: int = 0) -> Iterator[Unit]:
    for name, number, count in (("block", block, cadence.repeats), ("batch", batch, cadence.batches_in(round))):
        if not 0 <= number < count:
            raise ValueError(f"expected a {name} from 0 to {count - 1}, got {number}: {cadence} has no other")
    positions = range(block * cadence.block_length, (block + 1) * cadence.block_length)
    units = (cadence.unit(round, position) for position in positions)
    return (unit for unit in units if (unit.phase, unit.batch) == (phase, batch))


def _check_optimizers(optimizers: Mapping[str, Optimizer], names: Iterable[str]) -> None:
    if missing := [name for name in names if name not in optimizers]:
        raise ValueError(
            f"expected optimizers {', '.join(names)}, got {', '.join(optimizers) or 'none'}: add {', '.join(missing)}, "
            "which inversion.optimizers() and alignment.optimizer() make; the student's is your own"
        )


def _check_holds(optimizer: Optimizer, loss: DistillationLoss) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = [(name, parameter) for name, parameter in loss.named_parameters() if parameter.requires_grad]
    if left := [name for name, parameter in trained if id(parameter) not in held]:
        raise ValueError(
            f"the student's optimizer lacks {listed(left)} of {type(loss).__name__}: make it from "
            '[{"params": student.parameters()}, *loss.parameter_groups()], after loss.build(...)'
        )
