"""Division of a run into rounds, blocks of a round, and steps of a phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Phase = Literal["synthesize", "distill", "idle"]


class Unit(NamedTuple):
    """One training step: one unit of one phase.

    Args:
        round: index of the round (epoch), from 0.
        block: index of the synthesis-distillation block in the round.
        step: index of the step in the phase of the block, or in its synthesis batch.
        phase: ``synthesize``, ``distill`` or ``idle`` (a unit of a warm-up round in which nothing is done).
        first: whether this is the first step of its phase in the block, or of its synthesis batch.
        last: whether this is the last step of its phase in the block, or of its synthesis batch.
        counter: number of units since the start of the run; seeds the draws.
        batch: index of the synthesis batch in the block; 0 in other phases.
    """

    round: int
    block: int
    step: int
    phase: Phase
    first: bool
    last: bool
    counter: int
    batch: int = 0


@dataclass(frozen=True)
class Cadence:
    """Division of a round into synthesis and distillation, as set by a method.

    A block synthesises one or more batches of images one after the other and then updates the student. All rounds have
    as many units; a warm-up round synthesises in place of student updates where it has more batches than later ones.

    Args:
        synthesis_steps: generator or pixel updates for a synthesis batch.
        distill_steps: student updates in a block.
        repeats: blocks in a round.
        warmup_rounds: rounds at the start in which the student is not updated.
        batches: synthesis batches in a block.
        warmup_batches: synthesis batches in a block of a warm-up round; ``None`` for as many as later.

    Raises:
        ValueError: if a count is negative, a round would be empty, or the batches of a warm-up round do not fit into
            the units of a round.

    Example:
        >>> cadence = Cadence(2, 3, warmup_rounds=1)
        >>> cadence.length
        5
        >>> [cadence.unit(0, i).phase for i in range(5)]
        ['synthesize', 'synthesize', 'idle', 'idle', 'idle']
        >>> cadence.unit(1, 4)
        Unit(round=1, block=0, step=2, phase='distill', first=False, last=True, counter=9, batch=0)
        >>> several = Cadence(1, 3, warmup_rounds=1, batches=2, warmup_batches=4)
        >>> [[several.unit(round, i).phase for i in range(several.length)].count("synthesize") for round in range(2)]
        [4, 2]
    """

    synthesis_steps: int
    distill_steps: int
    repeats: int = 1
    warmup_rounds: int = 0
    batches: int = 1
    warmup_batches: int | None = None

    def __post_init__(self) -> None:
        if min(self.synthesis_steps, self.distill_steps, self.warmup_rounds) < 0 or self.length <= 0:
            raise ValueError(f"expected non-negative counts and at least one step in a round, got {self}")
        if min(self.batches, 1 if self.warmup_batches is None else self.warmup_batches) < 1:
            raise ValueError(
                f"expected at least one synthesis batch in a block, got {self}: 0 synthesis_steps for none"
            )
        if (self.warmup_batches or 1) * self.synthesis_steps > self.block_length:
            raise ValueError(
                f"a block of a warm-up round has {self.block_length} units, as later ones, and {self.warmup_batches} "
                f"batches of {self.synthesis_steps} synthesis steps do not fit: lower warmup_batches and raise "
                "warmup_rounds"
            )

    @property
    def block_length(self) -> int:
        """Units in a block."""
        return self.batches * self.synthesis_steps + self.distill_steps

    @property
    def length(self) -> int:
        """Units in a round."""
        return self.block_length * self.repeats

    def batches_in(self, round: int) -> int:
        """Return the number of synthesis batches in a block of a round.

        Args:
            round: index of the round, from 0.
        """
        return self.warmup_batches or self.batches if round < self.warmup_rounds else self.batches

    def batches_before(self, round: int, block: int = 0, batch: int = 0) -> int:
        """Return the number of synthesis batches in a run before a batch.

        Args:
            round: index of its round, from 0.
            block: index of its block in the round.
            batch: index of the batch in the block.

        Example:
            >>> Cadence(1, 9, repeats=2, warmup_rounds=1, batches=2, warmup_batches=3).batches_before(2, 1, 1)
            13
        """
        warmup = min(round, self.warmup_rounds)
        blocks = warmup * self.batches_in(0) + (round - warmup) * self.batches
        return blocks * self.repeats + block * self.batches_in(round) + batch

    def unit(self, epoch: int, batch_idx: int) -> Unit:
        """Return the unit of a batch.

        Args:
            epoch: the trainer's current epoch.
            batch_idx: position of the batch in the epoch.
        """
        block, position = divmod(batch_idx, self.block_length)
        counter = epoch * self.length + batch_idx
        synthesis = self.batches_in(epoch) * self.synthesis_steps
        if position < synthesis:
            batch, step = divmod(position, self.synthesis_steps)
            last = step == self.synthesis_steps - 1
            return Unit(epoch, block, step, "synthesize", step == 0, last, counter, batch)
        step = position - synthesis
        phase: Phase = "idle" if epoch < self.warmup_rounds else "distill"
        return Unit(epoch, block, step, phase, step == 0, position == self.block_length - 1, counter)
