"""Synthesis step: an update of the generator, then one of the discriminator."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distributed import gather_rows
from lightning_condkd.inversion import Inversion
from lightning_condkd.inversion.base import Observe
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Unit
from lightning_condkd.steps.optimizer_turns import LARGEST_PIXEL, OptimizerTurns, Update
from lightning_condkd.steps.part_checks import check_discriminator
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic


class Synthesized(NamedTuple):
    """Result of one synthesis step, with its graph.

    Args:
        synthetic: this rank's images, with the teacher's labels if the method has none.
        output: the teacher's output on their main view.
        embedding: their embedding for the discriminator, ``(N, D)``; ``None`` without alignment.
        inversion: terms of the method.
        total: terms of the method and of the alignment.
    """

    synthetic: Synthetic
    output: NetworkOutput
    embedding: Tensor | None
    inversion: LossTerms
    total: LossTerms

    def losses(self) -> tuple[Tensor, Tensor]:
        """Return the method's own loss and the total, without graph."""
        own, total = (terms.total().detach().to(self.output.logits.device) for terms in (self.inversion, self.total))
        return own, total


class _Observed(NamedTuple):
    """The teacher; it also returns its embedding if the discriminator uses the same view."""

    teacher: Observe
    shared: bool

    def __call__(self, images: Tensor, *, embedding: bool = False, **asked: Any) -> NetworkOutput:  # noqa: ANN401
        return self.teacher(images, embedding=embedding or self.shared, **asked)


class SynthesisStep(NamedTuple):
    """One synthesis step, under a trainer or in a plain PyTorch loop.

    Args:
        teacher: the frozen teacher.
        student: the student, in the mode of ``inversion.student_mode``.
        inversion: the method, built.
        alignment: the alignment with condensed images, built; ``None`` for plain inversion.
        transfer_set: source of the alignment's condensed images; ``None`` without alignment.
    """

    teacher: Observe
    student: Observe
    inversion: Inversion
    alignment: FeatureAlignment | None = None
    transfer_set: TransferSet | None = None

    def take(self, unit: Unit, draw: Draw, turns: OptimizerTurns) -> list[Update]:
        """Take the step; the first one of a block also begins it.

        Args:
            unit: the current unit.
            draw: its randomness.
            turns: the optimizers.
        """
        turns.forget("synthesis", self.inversion.forgets(unit))
        if unit.first:
            self.inversion.start(unit, draw)
        synthesized, update = self._update_generator(unit, draw, turns)
        if self.alignment is None:
            return [update]
        return [update, self._update_discriminator(self.alignment, synthesized, unit, draw, turns)]

    def _update_generator(self, unit: Unit, draw: Draw, turns: OptimizerTurns) -> tuple[Synthesized, Update]:
        turns.scale("synthesis", self.inversion.lr_factor(unit))
        with turns.turn("synthesis", self.inversion.gradient_clip) as step:
            synthesized = self.generator(unit, draw)
            if synthesized.total.values:
                step(synthesized.total.total())
        own, total = synthesized.losses()
        values, images = synthesized.total.values, synthesized.synthetic.images
        update = Update("synthesis", {**values, "total": total, LARGEST_PIXEL: images.detach().amax()}, values)
        self.inversion.after_step(synthesized.synthetic, synthesized.output, own, total, unit)
        return synthesized, update

    def _update_discriminator(
        self, alignment: FeatureAlignment, synthesized: Synthesized, unit: Unit, draw: Draw, turns: OptimizerTurns
    ) -> Update:
        labels, fake = cast(Tensor, synthesized.synthetic.labels), cast(Tensor, synthesized.embedding).detach()
        condensed = self.condensed_embedding(labels, unit, draw)
        accuracy = alignment.accuracy(condensed, fake, labels)
        with turns.turn("discriminator") as step:
            terms = alignment.discriminator_loss(condensed, fake, labels)
            total = terms.total()
            step(total)
        if unit.first:
            check_discriminator(alignment.discriminator)
        return Update("discriminator", {**terms.values, "total": total}, {**accuracy, **terms.values})

    def finish(self, unit: Unit, turns: OptimizerTurns) -> None:
        """End a block.

        Args:
            unit: its last synthesis unit.
            turns: the optimizers.
        """
        for name in self.inversion.finish(unit):
            turns.optimizers[name].step()  # the method wrote this gradient unscaled, so no gradient scaler

    def generator(self, unit: Unit, draw: Draw) -> Synthesized:
        """Render images, compute the teacher's output and return all terms.

        Args:
            unit: the current unit.
            draw: its randomness.
        """
        shared = self.alignment is not None and self.alignment.augment is None
        rendered, terms, output = self.inversion(_Observed(self.teacher, shared), self.student, unit, draw)
        labels = output.logits.argmax(1) if rendered.labels is None else rendered.labels
        if self.alignment is None:
            return Synthesized(Synthetic(rendered.images, labels), output, None, terms, terms)
        embedding = self._embedding(self.alignment, rendered.images, output, draw)
        aligned = self.alignment.generator_loss(embedding, labels, unit.round)
        return Synthesized(Synthetic(rendered.images, labels), output, embedding, terms, terms.merge(aligned))

    def _embedding(self, alignment: FeatureAlignment, images: Tensor, output: NetworkOutput, draw: Draw) -> Tensor:
        if alignment.augment is not None:
            output = self.teacher(alignment.augment.view(images, draw, "synthetic view"), embedding=True)
        return cast(Tensor, output.embedding)

    @torch.no_grad()
    def condensed_embedding(self, labels: Tensor, unit: Unit, draw: Draw) -> Tensor:
        """Return the teacher's embedding of class-matched condensed images, augmented like the synthetic ones.

        Args:
            labels: classes of this rank's synthetic images, ``(N,)``.
            unit: the current unit.
            draw: randomness of the unit.
        """
        real = cast(TransferSet, self.transfer_set).matching(gather_rows(labels), draw, labels.device)
        own = None if self.alignment is None else self.alignment.augment
        if own is None:
            images = self.inversion.view(real.images, unit, draw, "condensed view")
        else:
            images = own.view(real.images, draw, "condensed view")
        return cast(Tensor, self.teacher(images, embedding=True).embedding)
