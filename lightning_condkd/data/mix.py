"""Mixture of condensed and synthetic images in a batch of the student."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Mix = Literal["union", "two_term"]


@dataclass(frozen=True)
class AnnealedMix:
    """A share of condensed images in every batch that falls (or rises) along half a cosine, and then stays.

    In the code of PGDI the same numbers weigh two losses, one of the condensed images and one of the synthetic ones;
    here they are shares of one batch, rounded to whole images.

    Args:
        start: share in the first round, from 0 to 1 (code of PGDI).
        end: share from round number ``rounds`` on (code of PGDI).
        rounds: rounds of the change, counted from the start of the run, warm-up included (code of PGDI).

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> mix = AnnealedMix(start=0.9, end=0.1, rounds=4)
        >>> [round(mix.share(number), 2) for number in (0, 2, 4, 9)]
        [0.9, 0.5, 0.1, 0.1]
    """

    start: float = 0.9
    end: float = 0.2
    rounds: int = 100

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} of the mix from 0 (bank alone) to 1, got {getattr(self, name)}")
        if self.rounds < 1:
            raise ValueError(f"expected rounds of the mix of at least 1, got {self.rounds}: a fixed mix is a number")

    def share(self, round: int) -> float:
        """Return the share of condensed images in a round.

        Args:
            round: index of the round, from 0.
        """
        done = min(round / self.rounds, 1.0)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * done))


def check_mix(mix: Mix | float | AnnealedMix, batch_size: int) -> None:
    """Check a mixture and its batch size.

    Args:
        mix: the mixture.
        batch_size: images in the global batch.

    Raises:
        ValueError: if the mixture is unknown, or the batch size does not fit it.
    """
    if batch_size < 1:
        raise ValueError(f"expected batch_size of at least 1, got {batch_size}")
    if isinstance(mix, AnnealedMix):
        return
    if isinstance(mix, str):
        if mix not in ("union", "two_term"):
            raise ValueError(f"expected mix 'union', 'two_term', a share from 0 to 1 or an AnnealedMix, got {mix!r}")
        if mix == "two_term" and batch_size % 2:
            raise ValueError(f"mix='two_term' halves the batch, got batch_size={batch_size}: make it even")
    elif not 0 <= mix <= 1:
        raise ValueError(f"expected a mix from 0 (bank alone) to 1 (condensed alone), got {mix}")


def condensed_count(mix: Mix | float | AnnealedMix, batch_size: int, round: int) -> int | None:
    """Return the number of condensed images in a batch; ``None`` if it varies from batch to batch (``union``).

    Args:
        mix: the mixture.
        batch_size: images in the global batch.
        round: index of the round, from 0.

    Example:
        >>> [condensed_count(mix, 8, round=0) for mix in ("union", "two_term", 0.25, AnnealedMix(start=0.9))]
        [None, 4, 2, 7]
    """
    if isinstance(mix, str):
        return None if mix == "union" else batch_size // 2
    share = mix.share(round) if isinstance(mix, AnnealedMix) else mix
    return int(share * batch_size + 0.5)
