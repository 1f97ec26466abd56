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
        step: index of the step in the phase of the block.
        phase: ``synthesize``, ``distill`` or ``idle`` (a distillation unit of a warm-up round).
        first: whether this is the first step of its phase in the block.
        last: whether this is the last step of its phase in the block.
        counter: number of units since the start of the run; seeds the draws.
    """

    round: int
    block: int
    step: int
    phase: Phase
    first: bool
    last: bool
    counter: int


@dataclass(frozen=True)
class Cadence:
    """Division of a round into synthesis and distillation, as set by a method.

    Args:
        synthesis_steps: generator or pixel updates in a block.
        distill_steps: student updates in a block.
        repeats: blocks in a round.
        warmup_rounds: rounds at the start in which the student is not updated.

    Raises:
        ValueError: if a count is negative or a round would be empty.

    Example:
        >>> cadence = Cadence(2, 3, warmup_rounds=1)
        >>> cadence.length
        5
        >>> [cadence.unit(0, i).phase for i in range(5)]
        ['synthesize', 'synthesize', 'idle', 'idle', 'idle']
        >>> cadence.unit(1, 4)
        Unit(round=1, block=0, step=2, phase='distill', first=False, last=True, counter=9)
    """

    synthesis_steps: int
    distill_steps: int
    repeats: int = 1
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        if min(self.synthesis_steps, self.distill_steps, self.warmup_rounds) < 0 or self.length <= 0:
            raise ValueError(f"expected non-negative counts and at least one step in a round, got {self}")

    @property
    def length(self) -> int:
        """Units in a round."""
        return (self.synthesis_steps + self.distill_steps) * self.repeats

    def unit(self, epoch: int, batch_idx: int) -> Unit:
        """Return the unit of a batch.

        Args:
            epoch: the trainer's current epoch.
            batch_idx: position of the batch in the epoch.
        """
        block, position = divmod(batch_idx, self.synthesis_steps + self.distill_steps)
        counter = epoch * self.length + batch_idx
        if position < self.synthesis_steps:
            last = position == self.synthesis_steps - 1
            return Unit(epoch, block, position, "synthesize", position == 0, last, counter)
        step = position - self.synthesis_steps
        phase: Phase = "idle" if epoch < self.warmup_rounds else "distill"
        return Unit(epoch, block, step, phase, step == 0, step == self.distill_steps - 1, counter)
