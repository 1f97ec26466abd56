"""One block of synthesis in a bare PyTorch loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch.optim import Optimizer

from lightning_condkd.inversion.base import Inversion, Observe, SynthesisLoss, clip_gradients, scale_learning_rates
from lightning_condkd.randomness import Draw
from lightning_condkd.types import Synthetic


def synthesize(
    inversion: Inversion,
    optimizers: Mapping[str, Optimizer],
    teacher: Observe,
    student: Observe,
    round: int,
    seed: int = 0,
) -> Synthetic:
    """Run the synthesis steps of a round's first block and return the images that it keeps.

    What :class:`~lightning_condkd.CondKD` does without alignment on one process, for loops of one's own.

    Args:
        inversion: the method, built.
        optimizers: what ``inversion.optimizers()`` returned; kept from round to round.
        teacher: the frozen teacher.
        student: the student, in eval mode.
        round: number of the round, from 0.
        seed: seed of the run.

    Returns:
        The kept images ``(N, C, H, W)``, pixels in the units of [0, 1], and labels ``(N,)``. They are overwritten by
        the next call.
    """
    for step in range(inversion.cadence.synthesis_steps):
        unit = inversion.cadence.unit(round, step)
        draw = Draw(seed, unit.counter)
        if unit.first:
            for parameter in inversion.per_round():
                optimizers["synthesis"].state.pop(parameter, None)
            inversion.start(unit, draw)
        if "synthesis" in optimizers:
            scale_learning_rates(optimizers["synthesis"], inversion.lr_factor(unit))
        synthetic, terms, output = cast(SynthesisLoss, inversion(teacher, student, unit, draw))
        loss = terms.total()
        if loss.requires_grad:
            optimizers["synthesis"].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if inversion.gradient_clip is not None:
                clip_gradients(optimizers["synthesis"], inversion.gradient_clip)
            optimizers["synthesis"].step()
        inversion.after_step(synthetic, output, loss.detach(), loss.detach(), unit)
        if unit.last:
            for name in inversion.finish(unit):
                optimizers[name].step()
    return inversion.collect()
