"""The forward passes of the generator's and the discriminator's steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distributed import gather_rows
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic


class Synthesized(NamedTuple):
    """What one synthesis step computed, with its graph.

    Args:
        synthetic: this rank's images, labels filled in by the teacher where the method has none.
        output: the teacher's output on their main view.
        embedding: what the discriminator sees of them, ``(N, D)``; ``None`` without alignment.
        inversion: the method's own terms.
        total: those and the alignment's.
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
    """The teacher, which yields its embedding whenever the discriminator looks at the same view."""

    teacher: Observer
    shared: bool

    def __call__(
        self,
        images: Tensor,
        *,
        embedding: bool = False,
        bn: bool = False,
        maps: Sequence[str] = (),
        channel_means: bool = False,
    ) -> NetworkOutput:
        embedding = embedding or self.shared
        return cast(
            NetworkOutput,
            self.teacher(images, embedding=embedding, bn=bn, maps=maps, channel_means=channel_means),
        )


class SynthesisStep(NamedTuple):
    """The forward passes of a synthesis step.

    Args:
        teacher: the frozen teacher.
        student: the student, in eval mode.
        inversion: the method, built.
        alignment: the discriminator game, built; ``None`` for plain inversion.
        transfer_set: where class-matched condensed images come from.
    """

    teacher: Observer
    student: Observer
    inversion: Inversion
    alignment: FeatureAlignment | None
    transfer_set: TransferSet

    def generator(self, unit: Unit, draw: Draw) -> Synthesized:
        """Render images, look at them through the teacher and return all terms.

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
        """Return the teacher's embedding of class-matched condensed images, in the view that the synthetic ones had.

        Args:
            labels: classes of this rank's synthetic images, ``(N,)``.
            unit: the current unit.
            draw: randomness of the unit.
        """
        real = self.transfer_set.matching(gather_rows(labels), draw, labels.device)
        own = None if self.alignment is None else self.alignment.augment
        if own is None:
            images = self.inversion.view(real.images, unit, draw, "condensed view")
        else:
            images = own.view(real.images, draw, "condensed view")
        return cast(Tensor, self.teacher(images, embedding=True).embedding)
