"""DFAD (data-free adversarial distillation): a generator trained for disagreement between teacher and student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from lightning_condkd.functional.divergence import logits_l1
from lightning_condkd.inversion.interfaces import Mode, Observe, Source, StudentLoss, check_mode
from lightning_condkd.inversion.live import LiveInversion
from lightning_condkd.inversion.parts.card import QUOTED, MethodCard, accuracies
from lightning_condkd.inversion.parts.generator import (
    GeneratorOutput,
    GeneratorSettings,
    check_output,
    make_output,
    with_published,
)
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


class DFAD(LiveInversion):
    """Inversion with a generator that maximises the mean absolute difference of teacher and student logits.

    The student minimises the same difference
    (:class:`~lightning_condkd.distillation.LogitsL1Distillation`). It needs only the two networks: no BatchNorm, no
    embedding, no labels. Defaults are those of the method's own code for CIFAR, whose images may leave [0, 1];
    :meth:`datafree` is the version of the DataFree family of codes, with bounded pixels. Settings of the student in the
    own code: the same batch size, SGD with lr 0.1, momentum 0.9 and weight decay 5e-4, a tenth of the lr after 100 and
    200 of 500 rounds, when that of the generator falls too. They matter: on the digits, students with Adam or with
    cropped images stay near chance, and one whose rate falls to 0 while the generator's does not loses in the end what
    it has learned.

    Args:
        cadence: 1 generator step and 5 student steps, 50 times a round. The own code begins with the student's steps.
        batch_size: images of a generator step.
        generator: the generator and its Adam (own code, CIFAR). The width is the number of channels in all stages of
            the default network but the last, which has half as many.
        generator_output: ``normalized`` builds :class:`~lightning_condkd.models.NormalizedGenerator`, whose images are
            normalised as the teacher's input and may leave [0, 1]; ``sigmoid`` builds
            :class:`~lightning_condkd.models.ConvGenerator` with the same widths.
        decay_blocks: numbers of blocks after each of which the generator's learning rate is divided by 10; a block is a
            generator step with its student steps (own code: 100 and 200 rounds of 50 blocks).
        adversarial_weight: weight of the negative difference.
        source: ``live``, or ``bank`` to store images, clamped to [0, 1].
        student_mode: mode of the student in a generator step, see
            :class:`~lightning_condkd.inversion.base.Inversion`.
        sample_mode: mode of the generator when it renders images for a student step, see
            :class:`~lightning_condkd.inversion.live.LiveInversion`; ``None`` for ``train`` (own code).

    Raises:
        ValueError: if an argument is unknown or out of its range, or in :meth:`build`, if the generator does not fit
            the task.

    Example:
        >>> DFAD.datafree(batch_size=128).generator_settings.numbers
        GeneratorNumbers(width=128, latent_size=256, lr=0.001, betas=(0.5, 0.999))

    References:
        Fang et al.: "Data-Free Adversarial Distillation", arXiv 1912.11006.
    """

    card = MethodCard(
        "Data-Free-Adversarial-Distillation (VainF), CIFAR", published=accuracies(93.3, 67.7), published_in=QUOTED
    )
    student_loss: StudentLoss = "logits_l1"
    published: ClassVar[GeneratorSettings] = GeneratorSettings(128, 256, lr=1e-3, betas=(0.9, 0.999))

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(synthesis_steps=1, distill_steps=5, repeats=50),
        batch_size: int = 256,
        generator: GeneratorSettings = published,
        generator_output: GeneratorOutput = "normalized",
        decay_blocks: Sequence[int] = (5_000, 10_000),
        adversarial_weight: float = 1.0,
        source: Source = "live",
        student_mode: Mode = "train",
        sample_mode: Mode | None = None,
    ) -> None:
        super().__init__(
            cadence,
            batch_size,
            generator=generator,
            augment=None,
            source=source,
            sample_mode=sample_mode,
        )
        self.student_mode: Mode = check_mode("student_mode", student_mode)
        if any(block <= 0 for block in decay_blocks):
            raise ValueError(f"expected decay_blocks above 0, or () for a constant rate, got {decay_blocks}")
        self.generator_output = check_output(generator_output)
        self.decay_blocks = tuple(decay_blocks)
        self.adversarial_weight = adversarial_weight

    @classmethod
    def datafree(cls, **arguments: Any) -> DFAD:  # noqa: ANN401 - those of the class
        """Return the method with the values of the DataFree family of codes for CIFAR.

        DataFree has no script for DFAD; these are the values of Fast-Datafree. Its student: SGD, lr 0.1, momentum 0.9,
        weight decay 1e-4, cosine over 200 rounds of 400 steps. Its generator has twice as many channels in its first
        stages.

        Args:
            arguments: arguments with other values.
        """
        generator = with_published(arguments, GeneratorSettings(betas=(0.5, 0.999)))
        cadence = Cadence(synthesis_steps=1, distill_steps=5, repeats=80)
        setting = {"generator_output": "sigmoid", "cadence": cadence, "decay_blocks": (), "student_mode": "eval"}
        setting |= {} if arguments.get("source") == "bank" else {"sample_mode": "eval"}
        method = cls(**{**setting, **arguments, "generator": generator})
        method.student_lr_floor = 0.0
        return method

    def default_generator(self, spec: TaskSpec) -> nn.Module:
        """Return the generator of ``generator_output``."""
        return make_output(self.generator_output, spec, self.generator_settings)

    def lr_factor(self, unit: Unit) -> float:
        """Return the factor of the learning rate after the ``decay_blocks`` that are over."""
        block = unit.round * self.cadence.repeats + unit.block
        return float(0.1 ** sum(block >= last for last in self.decay_blocks))

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return the adversarial term; with weight 0 it is left out."""
        view = self.view(synthetic.images, unit, draw)
        output = observe(view)
        terms = {"adversarial": lambda: -logits_l1(student(view).logits, output.logits)}
        return LossTerms(terms, {"adversarial": self.adversarial_weight}), output
