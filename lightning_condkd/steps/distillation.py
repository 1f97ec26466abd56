"""Student step: draw images, augment them, compare the student with the teacher."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_condkd.augment import Augment, Mixing
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Unit
from lightning_condkd.steps.comparison import Compared, Comparison
from lightning_condkd.steps.optimizer_turns import LARGEST_PIXEL, OptimizerTurns, Update
from lightning_condkd.steps.part_checks import check_replayed
from lightning_condkd.types import Synthetic


class Distilled(NamedTuple):
    """Result of one student step.

    Args:
        loss: scalar with its graph.
        terms: the loss's named terms, unweighted; none if it has only one.
        observed: values to log.
        synthetic: the images rendered for this step; ``None`` if they came from the bank.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    observed: dict[str, Tensor]
    synthetic: Synthetic | None


class DistillationStep(NamedTuple):
    """One student step, under a trainer or in a plain PyTorch loop.

    Args:
        teacher: the frozen teacher.
        student: the student, in train mode.
        distillation: loss of the student, built.
        augment: view of the images, the same for both networks.
        inversion: the method, built; it renders the synthetic images if it is ``live``.
        transfer_set: source of the images.
        mixing: mixture of the views of a batch with each other; ``None`` for none.
    """

    teacher: Observer
    student: Observer
    distillation: DistillationLoss
    augment: Augment
    inversion: Inversion
    transfer_set: TransferSet
    mixing: Mixing | None = None

    def take(
        self,
        unit: Unit,
        draw: Draw,
        turns: OptimizerTurns,
        gradient_clip: float | None = None,
        progress: float = 1.0,
    ) -> list[Update]:
        """Take the step, then that of the method's replay memory if it has one.

        Args:
            unit: the current unit.
            draw: its randomness.
            turns: the optimizers.
            gradient_clip: largest norm of the gradient of student and loss; ``None`` for no limit.
            progress: share of the student's steps in the run that are done, in [0, 1].
        """
        with turns.turn("student", gradient_clip) as step:
            distilled = self(unit, draw, progress)
            step(distilled.loss)
        self.distillation.check_reached()
        losses = {"loss": distilled.loss, **distilled.terms}
        if distilled.synthetic is None:
            return [Update("student", losses, distilled.observed)]
        losses[LARGEST_PIXEL] = distilled.synthetic.images.amax()
        update = Update("student", losses, distilled.observed)
        return [update, *self._replay(distilled.synthetic, unit, draw, turns)]

    def _replay(self, synthetic: Synthetic, unit: Unit, draw: Draw, turns: OptimizerTurns) -> list[Update]:
        with turns.turn("replay") as step:
            terms = self.inversion.replay_loss(synthetic, self.teacher, unit, draw)
            if terms is None:
                return []
            check_replayed(self.inversion, list(turns.optimizers))
            total = terms.total()
            step(total)
        self.inversion.check_reached("replay")
        losses = {**terms.values, "total": total, LARGEST_PIXEL: synthetic.images.amax()}
        return [Update("replay", losses, terms.values)]

    def __call__(self, unit: Unit, draw: Draw, progress: float = 1.0) -> Distilled:
        """Return the loss with its graph, values to log and the rendered images.

        Args:
            unit: the current unit.
            draw: randomness of the step.
            progress: share of the student's steps in the run that are done, in [0, 1].
        """
        device = next(self.student.parameters()).device
        synthetic = self._sample(unit, draw)
        if synthetic is None:
            batch = self.transfer_set.draw(draw, device, unit.round)
        else:
            batch = self.transfer_set.blend(*synthetic, draw)
        parts = self.teacher, self.student, self.distillation, self.augment, self.mixing
        compare = Comparison(*parts, batch_statistics=self.inversion.teacher_statistics == "batch")
        compared = compare(batch.images, batch.labels, draw, progress, batch.slots)
        loss, terms = self._loss(compared, batch.from_condensed)
        shares = {**compared.agreement(self.distillation), "condensed_share": batch.from_condensed.float().mean()}
        observed = {"loss": loss, **shares, **terms}
        return Distilled(loss, terms, observed, synthetic)

    @torch.no_grad()
    def _sample(self, unit: Unit, draw: Draw) -> Synthetic | None:
        if self.inversion.source == "bank" or not self.transfer_set.synthetic_per_batch:
            return None
        return self.inversion.sample(self.transfer_set.synthetic_per_batch, self.teacher, unit, draw)

    def _loss(self, compared: Compared, condensed: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and, if it has several terms, these."""
        if self.transfer_set.mix != "two_term" or bool(condensed.all()):
            parts = [compared.terms(self.distillation)]
        else:
            parts = [compared.select(rows).terms(self.distillation) for rows in (condensed, ~condensed)]
        names = parts[0].values if len(parts[0].values) > 1 else ()
        terms = {name: torch.stack([part.values[name].detach() for part in parts]).sum() for name in names}
        return sum((part.total() for part in parts[1:]), start=parts[0].total()), terms
