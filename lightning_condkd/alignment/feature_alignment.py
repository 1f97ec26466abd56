"""Adversarial alignment of synthetic and condensed samples in the teacher's feature space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.alignment.base import Alignment
from lightning_condkd.alignment.discriminators import ACGANDiscriminator, Discriminator, DiscriminatorOutput
from lightning_condkd.augment import Augment
from lightning_condkd.functional import adversarial
from lightning_condkd.precision import at_least_float32
from lightning_condkd.randomness import Draw
from lightning_condkd.types import LossTerms, NetworkOutput, TaskSpec


def _class_loss(output: DiscriminatorOutput, labels: Tensor) -> Tensor | None:
    logits = output.class_logits
    return None if logits is None else F.cross_entropy(at_least_float32(logits), labels)


class FeatureAlignment(Alignment):
    """A discriminator between teacher embeddings of condensed and synthetic images, with the losses of both sides.

    Condensed and synthetic batches are class-matched: row i of both is of class ``labels[i]``. Only
    :meth:`discriminator_loss` advances the power iteration of spectral norm; no other method changes the module.

    Args:
        discriminator: ``None`` for :class:`~lightning_condkd.alignment.discriminators.ACGANDiscriminator` (our
            default).
        weight: factor of the generator's alignment terms (our default 5: on CIFAR-10, 5 and 20 both improve the
            student and 1 does not, ``benchmarks/results/cifar10.json``). 0 disables alignment.
        ramp_rounds: rounds over which the weight rises from 0 to its value, while the discriminator learns from the
            first round on; 0 for the full weight from the start (our default).
        loss: form of the adversarial loss (our default).
        learning_rate: learning rate of the discriminator's Adam (our default).
        augment: differentiable augmentation of condensed and synthetic images before the teacher embeds them for the
            discriminator; ``None`` uses the view of the inversion.

    Raises:
        TypeError: if the discriminator has another type.
        ValueError: if the weight or the number of rounds is negative, or the loss unknown.

    Example:
        >>> from lightning_condkd.randomness import seeded_generator
        >>> alignment = FeatureAlignment(weight=2.0)
        >>> task = TaskSpec((3, 32, 32), num_classes=10, embedding_size=64)
        >>> alignment.build(task, seeded_generator(0, "discriminator"))
        >>> labels = torch.tensor([3, 7])
        >>> condensed, synthetic = torch.ones(2, 64), torch.zeros(2, 64)
        >>> optimizer = alignment.optimizer()
        >>> alignment.discriminator_loss(condensed, synthetic, labels).total().backward()
        >>> optimizer.step()
        >>> alignment.generator_loss(synthetic, labels).weights
        {'alignment': 2.0, 'alignment_class': 2.0}

    References:
        Binici et al.: "Condensed Data Expansion Using Model Inversion for Knowledge Distillation", arXiv 2408.13850.
    """

    def __init__(
        self,
        discriminator: Discriminator | None = None,
        *,
        weight: float = 5.0,
        ramp_rounds: int = 0,
        loss: adversarial.AdversarialLoss = "bce",
        learning_rate: float = 1e-3,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(weight, ramp_rounds, augment)
        adversarial.check_kind(loss)
        given: object = discriminator
        if given is not None and not isinstance(given, Discriminator):
            got = getattr(given, "__name__", type(given).__name__)
            raise TypeError(f"discriminator: expected a Discriminator, got {got}: subclass it and write score")
        self.discriminator = ACGANDiscriminator() if discriminator is None else discriminator
        self.adversarial_loss: adversarial.AdversarialLoss = loss
        self.learning_rate = learning_rate

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create the discriminator's layers."""
        self.discriminator.build(spec.embedding_size, spec.num_classes, generator)

    @property
    def trained(self) -> Discriminator:
        """The discriminator."""
        return self.discriminator

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam over the discriminator, betas 0.5 and 0.999 (our default); call it after :meth:`build`."""
        return torch.optim.Adam(self.discriminator.parameters(), lr=self.learning_rate, betas=(0.5, 0.999))

    def loss(self, output: NetworkOutput, labels: Tensor, ramp: float, draw: Draw) -> LossTerms:
        """Return the terms of :meth:`generator_loss`."""
        return self.generator_loss(self.features(output), labels, ramp)

    def generator_loss(self, embedding: Tensor, labels: Tensor, ramp: float = 1.0) -> LossTerms:
        """Return the alignment loss of synthetic samples.

        The gradient reaches the embedding, and the discriminator's parameters unless they are frozen: the trainer
        freezes them in this step.

        Args:
            embedding: embedding of synthetic images, with a graph, ``(N, D)``.
            labels: ``(N,)`` int64.
            ramp: factor of the weights, in [0, 1].

        Returns:
            ``alignment``, and ``alignment_class`` for a discriminator with a class head.
        """
        with self._in_eval_mode():
            output = self.discriminator(embedding, labels)
        terms = {"alignment": adversarial.generator_loss(output.realness, self.adversarial_loss)}
        weight = self.weight * ramp
        weights = {"alignment": weight}
        if (class_loss := _class_loss(output, labels)) is not None:
            terms["alignment_class"] = class_loss
            weights["alignment_class"] = weight * self.discriminator.class_weight
        return LossTerms(terms, weights)

    def discriminator_loss(self, condensed: Tensor, synthetic: Tensor, labels: Tensor) -> LossTerms:
        """Return the loss of the discriminator; no gradient reaches the embeddings.

        Args:
            condensed: embedding of condensed images, ``(N, D)``.
            synthetic: embedding of synthetic images, ``(N, D)``.
            labels: classes of both, ``(N,)`` int64.

        Returns:
            ``discriminator``, and ``discriminator_class`` for a discriminator with a class head.

        Raises:
            ValueError: if the batches do not match.
        """
        real, fake = self._score_both(condensed.detach(), synthetic.detach(), labels)
        terms = {"discriminator": adversarial.discriminator_loss(real.realness, fake.realness, self.adversarial_loss)}
        weights = {"discriminator": 1.0}
        if (class_loss := _class_loss(real, labels)) is not None:
            on_synthetic = _class_loss(fake, labels) if self.discriminator.class_loss_on_synthetic else None
            terms["discriminator_class"] = class_loss if on_synthetic is None else class_loss + on_synthetic
            weights["discriminator_class"] = self.discriminator.class_weight
        return LossTerms(terms, weights)

    @torch.no_grad()
    def accuracy(self, condensed: Tensor, synthetic: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the share of samples that the discriminator classifies correctly as condensed or synthetic.

        Args:
            condensed: embedding of condensed images, ``(N, D)``.
            synthetic: embedding of synthetic images, ``(N, D)``.
            labels: classes of both, ``(N,)`` int64.

        Returns:
            ``discriminator_accuracy_condensed`` and ``discriminator_accuracy_synthetic``, scalars in [0, 1].
        """
        with self._in_eval_mode():
            real, fake = self._score_both(condensed, synthetic, labels)
        return {
            "discriminator_accuracy_condensed": (real.realness > 0).float().mean(),
            "discriminator_accuracy_synthetic": (fake.realness < 0).float().mean(),
        }

    def _score_both(
        self, condensed: Tensor, synthetic: Tensor, labels: Tensor
    ) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
        if not condensed.shape == synthetic.shape == (len(labels), *condensed.shape[1:]):
            raise ValueError(
                f"expected one condensed row for each synthetic row and label, got {tuple(condensed.shape)}, "
                f"{tuple(synthetic.shape)} and {len(labels)} labels; draw condensed rows for the synthetic labels."
            )
        # One pass over both, so that both use the same weights: each training pass is a step of the power iteration.
        output = self.discriminator(torch.cat([condensed, synthetic]), labels.repeat(2))
        realness = output.realness.chunk(2)
        class_logits = (None, None) if output.class_logits is None else output.class_logits.chunk(2)
        return DiscriminatorOutput(realness[0], class_logits[0]), DiscriminatorOutput(realness[1], class_logits[1])

    @contextmanager
    def _in_eval_mode(self) -> Iterator[None]:
        training = self.discriminator.training
        self.discriminator.eval()
        try:
            yield
        finally:
            self.discriminator.train(training)
