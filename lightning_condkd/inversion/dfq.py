"""DFQ (data-free quantisation): a generator trained for disagreement, with BatchNorm, class and balance terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_condkd.functional.divergence import negative_divergence
from lightning_condkd.functional.inversion import balance_loss, bn_distance, class_loss
from lightning_condkd.inversion.interfaces import Mode, Observe, Source
from lightning_condkd.inversion.live import LiveInversion
from lightning_condkd.inversion.parts.card import FAST_TABLE, MethodCard, accuracies
from lightning_condkd.inversion.parts.generator import GeneratorSettings, check_bn
from lightning_condkd.models.generators import ConvGenerator
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


class DFQ(LiveInversion):
    """Inversion with a generator for divergence of student from teacher, with terms for the teacher's statistics.

    This is the version of the DataFree code, with its defaults. The paper matches BatchNorm statistics by a divergence
    of Gaussians and uses several generators and students. The student minimises
    :class:`~lightning_condkd.distillation.KLDistillation` at temperature 1; its settings in that code: SGD, lr 0.1
    (0.05 for ResNet-34 to ResNet-18), momentum 0.9, weight decay 1e-4, cosine over 200 rounds. As in that code, the
    generator is in eval mode when it renders images for the student.

    Args:
        cadence: 1 generator step and 10 student steps, 40 times a round (400 student steps a round).
        batch_size: images of a generator step.
        generator: the generator and its Adam (DataFree code). The default network is a
            :class:`~lightning_condkd.models.ConvGenerator`; DataFree's has twice as many channels in its first stages.
        adversarial_weight: weight of the negative divergence, mean over samples.
        bn_weight: weight of the distance to the teacher's BatchNorm statistics, over each rank's own batch.
        class_weight: weight of the cross-entropy to the classes predicted by the teacher, taken as constants.
        balance_weight: weight of the negative entropy of the mean prediction (natural logarithm), over each rank's own
            batch.
        source: ``live``, or ``bank`` to store images.

    Raises:
        ValueError: if the source is unknown; in :meth:`build`, if ``bn_weight`` is not 0 and the teacher has no
            BatchNorm layer, or the generator does not fit the task.

    References:
        Choi et al.: "Data-Free Network Quantization With Adversarial Knowledge Distillation", arXiv 2005.04136.
    """

    card = MethodCard(
        "DataFree (zju-vipa), CIFAR-10", published=accuracies(94.61, 77.01, 64.79), published_in=FAST_TABLE
    )
    sample_mode: Mode = "eval"
    student_lr_floor = 0.0
    published: ClassVar[GeneratorSettings] = GeneratorSettings(64, 256, lr=1e-3, betas=(0.5, 0.999))

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(synthesis_steps=1, distill_steps=10, repeats=40),
        batch_size: int = 256,
        generator: GeneratorSettings = published,
        adversarial_weight: float = 1.0,
        bn_weight: float = 1.0,
        class_weight: float = 1.0,
        balance_weight: float = 20.0,
        source: Source = "live",
    ) -> None:
        super().__init__(
            cadence,
            batch_size,
            generator=generator,
            augment=None,
            source=source,
        )
        self.adversarial_weight, self.bn_weight = adversarial_weight, bn_weight
        self.class_weight, self.balance_weight = class_weight, balance_weight

    def make_more(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Check that the teacher has the BatchNorm layers that are compared."""
        check_bn(self.bn_weight, spec)

    def default_generator(self, spec: TaskSpec) -> nn.Module:
        """Return a :class:`~lightning_condkd.models.ConvGenerator`."""
        return ConvGenerator(spec.image_shape, latent_size=self.latent_size, width=self.generator_width)

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return adversarial, BN-statistics, class and balance terms; a term of weight 0 is left out."""
        view = self.view(synthetic.images, unit, draw)
        output = observe(view, bn=self.bn_weight != 0)
        terms: dict[str, Callable[[], Tensor]] = {
            "adversarial": lambda: negative_divergence(output.logits, student(view).logits),
            "bn": lambda: bn_distance(output.bn),
            "class": lambda: class_loss(output.logits, output.logits.argmax(1)),
            "balance": lambda: balance_loss(output.logits),
        }
        weights = {"adversarial": self.adversarial_weight, "bn": self.bn_weight}
        weights |= {"class": self.class_weight, "balance": self.balance_weight}
        return LossTerms(terms, weights), output
