"""DFAD (data-free adversarial distillation): a generator trained for disagreement between teacher and student."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from lightning_condkd.functional.divergence import logits_l1
from lightning_condkd.inversion.base import Observe, Source, StudentLoss
from lightning_condkd.inversion.live import LiveInversion
from lightning_condkd.inversion.parts.generator import GeneratorSettings
from lightning_condkd.models.generators import ConvGenerator
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


class DFAD(LiveInversion):
    """Inversion with a generator that maximises the mean absolute difference of teacher and student logits.

    The student minimises the same difference
    (:class:`~lightning_condkd.distillation.LogitsL1Distillation`). It needs only the two networks: no BatchNorm, no
    embedding, no labels. Defaults are those of the DataFree code.

    Args:
        cadence: 1 generator step and 5 student steps, 80 times a round (400 student steps a round).
        batch_size: images of a generator step.
        generator: the generator and its Adam (DataFree code). The default network is a
            :class:`~lightning_condkd.models.ConvGenerator`; DataFree's has twice as many channels in its first stages.
        adversarial_weight: weight of the negative difference.
        source: ``live``, or ``bank`` to store images.

    References:
        Fang et al.: "Data-Free Adversarial Distillation", arXiv 1912.11006.
    """

    student_loss: StudentLoss = "logits_l1"
    published: ClassVar[GeneratorSettings] = GeneratorSettings(64, 256, lr=1e-3, betas=(0.5, 0.999))

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(synthesis_steps=1, distill_steps=5, repeats=80),
        batch_size: int = 256,
        generator: GeneratorSettings = published,
        adversarial_weight: float = 1.0,
        source: Source = "live",
    ) -> None:
        super().__init__(
            cadence,
            batch_size,
            generator=generator,
            augment=None,
            source=source,
        )
        self.adversarial_weight = adversarial_weight

    def default_generator(self, spec: TaskSpec) -> nn.Module:
        """Return a :class:`~lightning_condkd.models.ConvGenerator`."""
        return ConvGenerator(spec.image_shape, latent_size=self.latent_size, width=self.generator_width)

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return the adversarial term; with weight 0 it is left out."""
        view = self.view(synthetic.images, unit, draw)
        output = observe(view)
        terms = {"adversarial": lambda: -logits_l1(student(view).logits, output.logits)}
        return LossTerms(terms, {"adversarial": self.adversarial_weight}), output
