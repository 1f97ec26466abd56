"""Synthesis step: an update of the generator, then one of the discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lightning_condkd.alignment import Alignment
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distributed import gather_rows
from lightning_condkd.inversion import Inversion
from lightning_condkd.inversion.interfaces import Observe
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Unit
from lightning_condkd.steps.optimizer_turns import LARGEST_PIXEL, OptimizerTurns, Update
from lightning_condkd.steps.part_checks import check_discriminator
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic

CHUNK = 256  # condensed images in a forward pass


class Synthesized(NamedTuple):
    """Result of one synthesis step, with its graph.

    Args:
        synthetic: this rank's images, with the teacher's labels if the method has none.
        output: the teacher's output on their main view.
        aligned: the teacher's output on their view for the alignment; ``None`` without alignment.
        inversion: terms of the method.
        total: terms of the method and of the alignment.
    """

    synthetic: Synthetic
    output: NetworkOutput
    aligned: NetworkOutput | None
    inversion: LossTerms
    total: LossTerms

    def losses(self) -> tuple[Tensor, Tensor]:
        """Return the method's own loss and the total, without graph."""
        own, total = (terms.total().detach().to(self.output.logits.device) for terms in (self.inversion, self.total))
        return own, total


class _Observed:
    """The teacher, for a method; a pass also returns what the alignment asks for, unless the method asks otherwise."""

    def __init__(self, teacher: Observe, shared: Mapping[str, Any]) -> None:
        self.teacher, self.shared = teacher, shared
        self.for_both: list[Tensor] = []  # logits of the passes that returned it

    def __call__(self, images: Tensor, **asked: Any) -> NetworkOutput:  # noqa: ANN401
        agree = all(asked.get(name) in (value, False, None, ()) for name, value in self.shared.items())
        output = self.teacher(images, **{**asked, **(self.shared if agree else {})})
        self.for_both += [output.logits] if self.shared and agree else []
        return output


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
    alignment: Alignment | None = None
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
        if self.alignment is None or "discriminator" not in turns.optimizers:
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
        self, alignment: Alignment, synthesized: Synthesized, unit: Unit, draw: Draw, turns: OptimizerTurns
    ) -> Update:
        labels = cast(Tensor, synthesized.synthetic.labels)
        fake = alignment.features(cast(NetworkOutput, synthesized.aligned)).detach()
        condensed = alignment.features(self.matching_output(labels, unit, draw))
        accuracy = alignment.accuracy(condensed, fake, labels)
        with turns.turn("discriminator") as step:
            terms = alignment.discriminator_loss(condensed, fake, labels)
            total = terms.total()
            step(total)
        if unit.first:
            check_discriminator(alignment.trained)
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
        alignment = self.alignment
        asked = {} if alignment is None else alignment.asks(network_of(self.teacher))
        observe = _Observed(self.teacher, {} if alignment is None or alignment.augment is not None else asked)
        rendered, terms, output = self.inversion(observe, self.student, unit, draw)
        labels = output.logits.argmax(1) if rendered.labels is None else rendered.labels
        synthetic = Synthetic(rendered.images, labels)
        if alignment is None:
            return Synthesized(synthetic, output, None, terms, terms)
        self._remember_condensed(alignment, asked, labels.device)
        aligned = output
        if not any(logits is output.logits for logits in observe.for_both):
            purpose = "view" if alignment.augment is None else "synthetic view"
            aligned = self.teacher(self._aligned_view(rendered.images, unit, draw, purpose), **asked)
        return Synthesized(synthetic, output, aligned, terms, terms.merge(alignment(aligned, labels, unit.round, draw)))

    def _aligned_view(self, images: Tensor, unit: Unit, draw: Draw, purpose: str) -> Tensor:
        """Return the view for the alignment: its own, or that of the method."""
        augment = cast(Alignment, self.alignment).augment
        if augment is None:
            return self.inversion.view(images, unit, draw, purpose)
        return augment.view(images, draw, purpose)

    def _remember_condensed(self, alignment: Alignment, asked: Mapping[str, Any], device: torch.device) -> None:
        condensed = cast(TransferSet, self.transfer_set).condensed
        if alignment.lacks(condensed):
            alignment.remember(condensed, *condensed_outputs(self.teacher, condensed, asked, device))

    @torch.no_grad()
    def matching_output(self, labels: Tensor, unit: Unit, draw: Draw) -> NetworkOutput:
        """Return the teacher's output on class-matched condensed images, augmented like the synthetic ones.

        Args:
            labels: classes of this rank's synthetic images, ``(N,)``.
            unit: the current unit.
            draw: randomness of the unit.
        """
        real = cast(TransferSet, self.transfer_set).matching(gather_rows(labels), draw, labels.device)
        images = self._aligned_view(real.images, unit, draw, "condensed view")
        return self.teacher(images, **cast(Alignment, self.alignment).asks(network_of(self.teacher)))


def network_of(teacher: Observe) -> nn.Module:
    """Return the network of an observed teacher.

    Args:
        teacher: an :class:`~lightning_condkd.models.Observer`, or a network that is observed in another way.
    """
    return cast(nn.Module, getattr(teacher, "network", teacher))


@torch.no_grad()
def condensed_outputs(
    teacher: Observe, condensed: CondensedSet, asked: Mapping[str, Any], device: torch.device
) -> tuple[NetworkOutput, Tensor]:
    """Return the teacher's output on all condensed images, without augmentation, and their classes.

    Args:
        teacher: the frozen teacher.
        condensed: the condensed set.
        asked: arguments of the teacher's forward pass.
        device: device of the teacher.
    """
    rows = torch.split(torch.arange(len(condensed)), CHUNK)
    outputs = [teacher(condensed.pixels(part, device), **asked) for part in rows]
    embedding, means = (
        None if getattr(outputs[0], name) is None else torch.cat([getattr(one, name) for one in outputs])
        for name in ("embedding", "channel_means")
    )
    logits = torch.cat([one.logits for one in outputs])
    return NetworkOutput(logits, embedding, channel_means=means), condensed.labels.to(device)
