"""NAYER: a generator of class vectors whose noise is in the weights of linear layers, drawn anew for every batch."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lightning_condkd.augment import Augment, CropFlip
from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.interfaces import Observe, Selection
from lightning_condkd.inversion.parts.balanced_labels import balanced_labels
from lightning_condkd.inversion.parts.card import WIDE_RESNET, MethodCard, Published
from lightning_condkd.inversion.parts.class_vectors import ClassVectors, TeacherHeadVectors, check_class_rows
from lightning_condkd.inversion.parts.generator import (
    GeneratorSettings,
    check_bn,
    complete,
    make_generator,
)
from lightning_condkd.inversion.parts.moving_statistics import MovingStatistics, check_momentum
from lightning_condkd.inversion.parts.teacher_terms import teacher_terms
from lightning_condkd.messages import listed
from lightning_condkd.models.generators import ConvGenerator
from lightning_condkd.models.noisy_generator import NoisyGenerator, parameters_without_reset, reset_layers
from lightning_condkd.randomness import Draw, seeded_initialization
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec

LARGEST_OF_TWO_STAGES = 64  # pixels: the official generators for CIFAR and Tiny-ImageNet have two stages


class NAYER(Inversion):
    """Inversion with one fixed vector for each class and noise in linear layers instead of latents.

    A batch has the classes in order, over and over. Its vectors pass a BatchNorm and a noisy linear layer for every K
    rows, drawn anew for every batch, and a decoder. All of it is trained by a fresh Adam, and the images of the step
    with the lowest loss are kept. The decoder keeps its weights from batch to batch, until it is drawn anew too.

    Defaults are those of the official code for CIFAR-10 (``scripts/nayer_100.sh``) but for the class vectors: there,
    CLIP's text embeddings of the class names (:class:`FileVectors`). Its student: SGD, lr 0.2, batch 512, 120 rounds
    (220 and 320 in the other scripts). A rest of labels that is no whole row of classes is drawn without replacement
    (official code: with). The decoder's layers begin with PyTorch's default values, as there. Images above 64 px have
    the stages of :class:`~lightning_condkd.models.ConvGenerator` (ours: the official ImageNet generator has others).

    Args:
        cadence: 30 synthesis steps for each of two batches and 400 student steps, 20 warm-up rounds of ten batches.
        batch_size: images of a synthesis batch.
        class_vectors: the vectors; ``None`` for :class:`TeacherHeadVectors`, which need no file (our default).
        generator: the decoder and the Adam of the whole generator. ``latent_size`` is the length of a noisy layer's
            output, the decoder's input. The default decoder is a :class:`~lightning_condkd.models.ConvGenerator`.
        lifetime: number of rounds after which the whole generator is drawn anew, counted both from the first round and
            from the end of the warm-up (official code); ``None`` for never.
        class_weight: weight of the cross-entropy to the labels.
        bn_weight: weight of the distance to the teacher's BatchNorm statistics.
        adversarial_weight: weight of the student-teacher disagreement, used after the warm-up rounds.
        bn_momentum: share of the moving average in the compared statistics, 0 for the plain distance. With several
            ranks, the distance uses each rank's own batch, the moving average the mean over ranks.
        augment: the teacher's view; ``None`` for random crop (pad 4) and flip.
        selection: images to keep, see :class:`~lightning_condkd.inversion.base.Inversion`.

    Raises:
        TypeError: if the class vectors are no :class:`ClassVectors`.
        ValueError: if an argument is out of its range; in :meth:`build`, if ``bn_weight`` is not 0 and the teacher has
            no BatchNorm layer, a layer of a given decoder has no ``reset_parameters``, or class vectors or decoder do
            not fit the task.

    References:
        Tran et al.: "NAYER: Noisy Layer Data Generation for Efficient and Effective Data-free Knowledge Distillation",
        CVPR 2024, arXiv 2310.00258.
    """

    card = MethodCard(
        "NAYER (tmtuan1307), nayer_100.sh",
        published=(Published("CIFAR-100", WIDE_RESNET, 70.2),),
        published_in="a plot in the code's README, 100 rounds",
    )
    balanced_labels = True
    vectors: Tensor
    labels: Tensor
    recorded: ClassVar[tuple[str, ...]] = ("betas",)
    published: ClassVar[GeneratorSettings] = GeneratorSettings(64, 1000, lr=4e-3, betas=(0.5, 0.999))

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(30, 400, warmup_rounds=20, batches=2, warmup_batches=10),
        batch_size: int = 400,
        class_vectors: ClassVectors | None = None,
        generator: GeneratorSettings = published,
        lifetime: int | None = 10,
        class_weight: float = 0.5,
        bn_weight: float = 10.0,
        adversarial_weight: float = 1.33,
        bn_momentum: float = 0.9,
        augment: Augment | None = None,
        selection: Selection = "total_loss",
    ) -> None:
        super().__init__(cadence, batch_size, CropFlip() if augment is None else augment, selection)
        if lifetime is not None and lifetime < 1:
            raise ValueError(f"expected lifetime of at least 1 round, got {lifetime}: None never draws all anew")
        self.class_vectors = _checked(TeacherHeadVectors() if class_vectors is None else class_vectors)
        self.class_rows_from = self.class_vectors.rows_from
        self.needs_embedding = self.class_rows_from is not None
        self.generator_settings = complete(generator, self.published)
        self.generator_width, self.latent_size, self.generator_lr, self.betas = self.generator_settings.numbers
        self.lifetime = lifetime
        self.class_weight, self.bn_weight, self.adversarial_weight = class_weight, bn_weight, adversarial_weight
        self.bn_momentum = check_momentum(bn_momentum)

    @classmethod
    def cifar10(cls, **arguments: Any) -> NAYER:  # noqa: ANN401 - those of the class
        """Return the official settings for CIFAR-10, which are the defaults: 30 steps.

        Args:
            arguments: arguments of the class that replace those of the setting.
        """
        return cls(**arguments)

    @classmethod
    def cifar100(cls, **arguments: Any) -> NAYER:  # noqa: ANN401 - those of the class
        """Return the official settings for CIFAR-100: 40 steps.

        Args:
            arguments: arguments of the class that replace those of the setting.

        Example:
            >>> cadence = NAYER.cifar100().cadence
            >>> cadence.synthesis_steps, cadence.batches, cadence.distill_steps
            (40, 2, 400)
        """
        cadence = Cadence(40, 400, warmup_rounds=20, batches=2, warmup_batches=10)
        return cls(**{"cadence": cadence, **arguments})

    @classmethod
    def tiny_imagenet(cls, **arguments: Any) -> NAYER:  # noqa: ANN401 - those of the class
        """Return the official settings for Tiny-ImageNet: 60 steps, batches of 200, 1000 student steps, no flip.

        The student there: SGD, lr 0.1, batch 256.

        Args:
            arguments: arguments of the class that replace those of the setting.

        Example:
            >>> cadence = NAYER.tiny_imagenet().cadence
            >>> cadence.batches, cadence.warmup_batches, cadence.length
            (4, 20, 1240)
        """
        cadence = Cadence(60, 1000, warmup_rounds=20, batches=4, warmup_batches=20)
        crop = CropFlip(padding=4, flip_probability=0.0)
        return cls(**{"cadence": cadence, "batch_size": 200, "augment": crop, **arguments})

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create the generator, the class vectors if the task gives them, and the moving statistics."""
        self._check(spec)
        self.num_classes = spec.num_classes
        own = self._own_vectors(spec, generator)
        vectors = torch.zeros(spec.num_classes, spec.embedding_size) if own is None else own
        self.register_buffer("vectors", vectors)
        self.register_buffer("labels", torch.zeros(self.batch_size, dtype=torch.long))
        decoder = make_generator(self.generator_settings, partial(self._own_decoder, spec), spec, generator)
        sizes = {"batch_size": self.batch_size, "chunk_size": spec.num_classes, "noise_size": self.latent_size}
        with seeded_initialization(generator):
            self.generator = NoisyGenerator(decoder, vector_size=vectors.shape[1], **sizes)
        self.moving_statistics = MovingStatistics(spec.bn_channels, self.bn_momentum)

    def _own_vectors(self, spec: TaskSpec, generator: torch.Generator) -> Tensor | None:
        if self.class_rows_from is not None:
            return None
        own = self.class_vectors.own(spec, generator)
        return check_class_rows("class_vectors", own, spec.num_classes).to(torch.get_default_dtype())

    def _own_decoder(self, spec: TaskSpec) -> nn.Module:
        stages = 2 if max(spec.image_shape[1:]) <= LARGEST_OF_TWO_STAGES else None
        width = self.generator_width
        return ConvGenerator(spec.image_shape, latent_size=self.latent_size, width=width, stages=stages)

    def _check(self, spec: TaskSpec) -> None:
        check_bn(self.bn_weight, spec)
        given = self.generator_settings.network
        missing = [] if given is None or self.lifetime is None else parameters_without_reset(given)
        if missing:
            raise ValueError(
                f"lifetime is {self.lifetime}, but no reset_parameters() of {type(given).__name__} draws "
                f"{listed(missing)} anew: write it in their layers, or set lifetime to None"
            )

    def take_class_rows(self, rows: Tensor) -> None:
        """Prepare and store the class vectors."""
        vectors = check_class_rows("class_vectors", self.class_vectors.prepare(rows), self.num_classes)
        self.vectors.copy_(vectors)

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Return ``synthesis``, an Adam over the generator."""
        return {"synthesis": Adam(self.generator.parameters(), lr=self.generator_lr, betas=self.betas)}

    def per_round(self) -> list[nn.Parameter]:
        """Return all parameters: the official code makes a new Adam for every batch."""
        return list(self.generator.parameters())

    def begin(self, unit: Unit, draw: Draw) -> None:
        """Draw the noisy layers, at the end of a lifetime all layers, and the labels."""
        if self._draws_all(unit):
            reset_layers(self.generator, draw.generator("generator"))
        self.generator.draw_noise(draw.generator("noisy layers"))
        self.labels.copy_(balanced_labels(self.batch_size, self.num_classes, draw.generator("labels")))

    def _draws_all(self, unit: Unit) -> bool:
        if self.lifetime is None or unit.block or unit.batch:
            return False
        return 0 in (unit.round % self.lifetime, (unit.round - self.cadence.warmup_rounds) % self.lifetime)

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return the generator's images of the vectors of the labels."""
        images = self.generator(self.vectors[self.labels], draw.rows)
        return Synthetic(images, self.labels[draw.rows])

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return class, BN-statistics and adversarial terms; a term of weight 0 is left out."""
        view = self.view(synthetic.images, unit, draw)
        output = observe(view, bn=self.bn_weight != 0)
        blend = self.moving_statistics.blend
        terms = teacher_terms(output, synthetic.labels, lambda: student(view).logits, blend)
        adversarial = self.adversarial_weight if unit.round >= self.cadence.warmup_rounds else 0.0
        return LossTerms(terms, {"class": self.class_weight, "bn": self.bn_weight, "adversarial": adversarial}), output

    def observe_step(self, synthetic: Synthetic, output: NetworkOutput, unit: Unit) -> None:
        """Store the last step's statistics."""
        if unit.last and output.bn:
            self.moving_statistics.update(output.bn)


def _checked(vectors: object) -> ClassVectors:
    if not isinstance(vectors, ClassVectors):
        cure = "give TeacherHeadVectors(), CondensedMeanVectors(), OrthogonalVectors() or FileVectors(path)"
        raise TypeError(f"class_vectors: expected ClassVectors, got {type(vectors).__name__}: {cure}")
    return vectors
