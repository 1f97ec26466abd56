"""ZSKT (zero-shot knowledge transfer): a generator trained for divergence between teacher and student."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_condkd.functional.divergence import Reduction, check_reduction, negative_divergence
from lightning_condkd.inversion.interfaces import Mode, Observe, Source, StudentLoss
from lightning_condkd.inversion.live import LiveInversion
from lightning_condkd.inversion.parts.card import FAST_TABLE, MethodCard, accuracies
from lightning_condkd.inversion.parts.generator import GeneratorSettings
from lightning_condkd.models.generators import NormalizedGenerator
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


class ZSKT(LiveInversion):
    """Inversion with a generator that maximises the divergence of the student's prediction from the teacher's.

    All steps of a block share one batch of latents: the student learns from the images that the generator was just
    trained on. A student batch with fewer synthetic images uses the first latents; a larger one uses further latents,
    which the block's student steps also share. Student and generator are in train mode in all steps. Defaults are those
    of the official code for CIFAR-10. Settings of its student:
    :class:`~lightning_condkd.distillation.AttentionDistillation`, Adam with lr 2e-3, the same batch size, gradient
    clipping at 5, cosine over 200 rounds.

    Args:
        cadence: 1 generator step and 10 student steps, 400 times a round: 80 000 blocks in 200 rounds.
        batch_size: images of a generator step.
        generator: the generator and its Adam; the learning rate is that of the first block (official code, CIFAR-10).
            The default network is a :class:`~lightning_condkd.models.NormalizedGenerator` without tanh and with a
            learned scale and offset of the last BatchNorm, whose images may leave [0, 1]. The width is the number of
            channels in all its stages but the last, which has half as many.
        gradient_clip: largest norm of the generator's gradient; ``None`` for no limit.
        anneal_blocks: number of blocks over which the generator's learning rate falls to 0 along half a cosine,
            including the blocks of warm-up rounds; set it to the number of blocks of the run. ``None`` keeps the rate.
        adversarial_weight: weight of the negative divergence, at temperature 1.
        reduction: reduction of the divergence; ``elementwise`` divides by the number of classes as well (official
            code), ``batchmean`` does not (DataFree). With Adam it matters if the gradient is clipped or alignment is
            added.
        source: ``live``, or ``bank`` to store images, clamped to [0, 1].

    Raises:
        ValueError: if an argument is unknown or out of its range, or in :meth:`build`, if the generator does not fit
            the task.

    References:
        Micaelli and Storkey: "Zero-shot Knowledge Transfer via Adversarial Belief Matching", NeurIPS 2019, arXiv
        1905.09768.
    """

    card = MethodCard(
        "ZeroShotKnowledgeTransfer, CIFAR-10", published=accuracies(93.32, 67.74, 54.59), published_in=FAST_TABLE
    )
    student_loss: StudentLoss = "attention"
    student_mode: Mode = "train"
    student_lr_floor = 0.0
    published: ClassVar[GeneratorSettings] = GeneratorSettings(128, 100, lr=1e-3, betas=(0.9, 0.999))

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(synthesis_steps=1, distill_steps=10, repeats=400),
        batch_size: int = 128,
        generator: GeneratorSettings = published,
        gradient_clip: float | None = 5.0,
        anneal_blocks: int | None = 80_000,
        adversarial_weight: float = 1.0,
        reduction: Reduction = "elementwise",
        source: Source = "live",
    ) -> None:
        super().__init__(
            cadence,
            batch_size,
            generator=generator,
            augment=None,
            source=source,
        )
        check_reduction(reduction)
        if anneal_blocks is not None and anneal_blocks <= 0:
            raise ValueError(f"expected anneal_blocks above 0, or None for a constant rate, got {anneal_blocks}")
        self.gradient_clip, self.anneal_blocks = gradient_clip, anneal_blocks
        self.adversarial_weight = adversarial_weight
        self.reduction: Reduction = reduction

    def default_generator(self, spec: TaskSpec) -> nn.Module:
        """Return a :class:`~lightning_condkd.models.NormalizedGenerator`."""
        return NormalizedGenerator(
            spec.image_shape,
            mean=spec.mean,
            std=spec.std,
            latent_size=self.latent_size,
            width=self.generator_width,
            tanh=False,
            affine=True,
        )

    def lr_factor(self, unit: Unit) -> float:
        """Return the factor of half a cosine over ``anneal_blocks``."""
        if self.anneal_blocks is None:
            return 1.0
        block = unit.round * self.cadence.repeats + unit.block
        return (1 + math.cos(math.pi * min(block / self.anneal_blocks, 1.0))) / 2

    def latents(self, count: int, unit: Unit, draw: Draw) -> Tensor:
        """Return this rank's rows of the first latents of the block, the same in all its units."""
        position = unit.step + (0 if unit.phase == "synthesize" else self.cadence.synthesis_steps)
        stream = draw._replace(step=draw.step - position).generator("latent")
        # Whole batches, because the values depend on how many are drawn at once.
        batches = [
            torch.randn((self.batch_size, self.latent_size), generator=stream)
            for _ in range(math.ceil(count / self.batch_size))
        ]
        return torch.cat(batches)[:count][draw.rows].to(next(self.generator.parameters()))

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return the adversarial term; with weight 0 it is left out."""
        view = self.view(synthetic.images, unit, draw)
        output = observe(view)
        terms = {"adversarial": lambda: negative_divergence(output.logits, student(view).logits, self.reduction)}
        return LossTerms(terms, {"adversarial": self.adversarial_weight}), output
