"""CMI (contrastive model inversion): a new generator for every batch, and a memory of features against repetition."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lightning_condkd.augment import Augment, CropFlip, ResizedCrop
from lightning_condkd.distributed import gather_rows
from lightning_condkd.functional.contrastive import contrastive_loss
from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.interfaces import Observe, Selection
from lightning_condkd.inversion.parts.card import FAST_TABLE, MethodCard, accuracies
from lightning_condkd.inversion.parts.contrastive import Contrastive
from lightning_condkd.inversion.parts.feature_ring import FeatureRing
from lightning_condkd.inversion.parts.generator import GeneratorSettings, check_bn, complete, make_generator
from lightning_condkd.inversion.parts.teacher_terms import teacher_terms
from lightning_condkd.models.generators import ConvGenerator
from lightning_condkd.precision import at_least_float32
from lightning_condkd.randomness import Draw, seeded_initialization
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


class CMI(Inversion):
    """Inversion with a generator and latents, reset for every block, and a contrastive memory of earlier blocks.

    Every image has a main view and a local view. A head, trained over the whole run, learns to match the local view of
    an image with its main view among the other images of the batch and stored images. The same loss trains the images,
    so they become different from each other and from earlier ones. At the end of a block the features of its best step
    are stored.

    Defaults are those of the official script ``scratch_cmi_cifar10_wrn402_wrn161.sh`` unless noted. Its student steps
    have batches of 128 and a learning rate of 0.1.

    Args:
        cadence: 200 synthesis steps, 400 student steps; the published table was made with 500 synthesis steps.
        batch_size: images of a block.
        generator: the generator, whose learning rate is also that of the latents (betas: official code). The default
            network is a :class:`~lightning_condkd.models.ConvGenerator`; a given one must have a method
            ``initialize(generator)`` that refills it.
        class_weight: weight of the cross-entropy to the sampled labels (``scratch_cmi``, ``cmi_cifar10``: 1;
            ``adv_cmi``: 0.5).
        bn_weight: weight of the distance to the teacher's BatchNorm statistics (all scripts).
        adversarial_weight: weight of the student-teacher disagreement, used after the warm-up rounds (all scripts).
        contrastive_weight: weight of the contrastive term (all scripts); 0 omits head and ring.
        contrastive: settings of head, ring and local view.
        augment: the main view; ``None`` for random crop (pad 4) and flip.
        selection: images to keep, see :class:`~lightning_condkd.inversion.base.Inversion`.

    Raises:
        ValueError: if an argument is out of its range; in :meth:`build`, if the teacher lacks a BatchNorm layer that is
            needed, or the generator has no ``initialize`` or does not fit the task.

    References:
        Fang et al.: "Contrastive Model Inversion for Data-Free Knowledge Distillation", arXiv 2105.08584.
    """

    card = MethodCard(
        "CMI (zju-vipa), scratch_cmi_cifar10_wrn402_wrn161.sh",
        teacher_passes=2,
        published=accuracies(94.84, 77.04, 68.75),
        published_in=f"{FAST_TABLE}, 500 steps a block",
    )
    generator: nn.Module
    labels: Tensor
    kept_features: Tensor
    student_lr_floor = 0.0
    recorded: ClassVar[tuple[str, ...]] = ("betas",)
    published: ClassVar[GeneratorSettings] = GeneratorSettings(64, 256, lr=1e-3, betas=(0.5, 0.999))

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(synthesis_steps=200, distill_steps=400),
        batch_size: int = 256,
        generator: GeneratorSettings = published,
        class_weight: float = 1.0,
        bn_weight: float = 1.0,
        adversarial_weight: float = 0.5,
        contrastive_weight: float = 0.8,
        contrastive: Contrastive = Contrastive(),
        augment: Augment | None = None,
        selection: Selection = "total_loss",
    ) -> None:
        super().__init__(cadence, batch_size, CropFlip() if augment is None else augment, selection)
        self.generator_settings = complete(generator, self.published)
        self.generator_width, self.latent_size, self.generator_lr, self.betas = self.generator_settings.numbers
        self.contrastive = contrastive
        self.class_weight, self.bn_weight, self.adversarial_weight = class_weight, bn_weight, adversarial_weight
        self.contrastive_weight, self.contrasts = contrastive_weight, contrastive_weight != 0
        self.needs_embedding = self.contrasts and contrastive.features == "embedding"
        named = self.contrasts and not isinstance(contrastive.features, str)
        self.channel_means_of = contrastive.features if named else ()
        self.local_augment = ResizedCrop() if contrastive.local_augment is None else contrastive.local_augment
        self._step_features: Tensor | None = None  # from loss to after_step

    @classmethod
    def adversarial(
        cls,
        *,
        cadence: Cadence = Cadence(synthesis_steps=200, distill_steps=2000, warmup_rounds=195),
        class_weight: float = 0.5,
        **arguments: Any,  # noqa: ANN401
    ) -> CMI:
        """Return the settings of ``adv_cmi_cifar10_wrn402_wrn161.sh``: many images first, then few against the student.

        The official run starts from a folder of 50 000 images made beforehand; here 195 warm-up rounds make as many.
        Then there are 40 rounds with 2000 student steps each: 235 epochs for the trainer.

        Args:
            cadence: see :class:`CMI`.
            class_weight: see :class:`CMI`.
            arguments: other arguments of the class.

        Example:
            >>> cadence = CMI.adversarial(batch_size=128).cadence
            >>> cadence.synthesis_steps, cadence.distill_steps, cadence.warmup_rounds
            (200, 2000, 195)
        """
        return cls(cadence=cadence, class_weight=class_weight, **arguments)

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create the generator, the latents, the head and the ring."""
        self._check(spec)
        own = partial(self._own_generator, spec)
        self.generator = make_generator(self.generator_settings, own, spec, generator)
        self.latent = nn.Parameter(torch.zeros(self.batch_size, self.latent_size))
        self.register_buffer("labels", torch.zeros(self.batch_size, dtype=torch.long))
        self.num_classes = spec.num_classes
        if self.contrasts:
            self._build_contrast(self._feature_size(spec), generator)

    def _feature_size(self, spec: TaskSpec) -> int:
        if self.needs_embedding:
            return spec.embedding_size
        return sum(spec.input_channels if self.channel_means_of else spec.bn_channels)

    def _build_contrast(self, width: int, generator: torch.Generator) -> None:
        with seeded_initialization(generator):
            self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.contrastive.head_size))
        self.register_buffer("kept_features", torch.zeros(self.batch_size, 2 * width))
        dtype = getattr(torch, self.contrastive.ring_dtype)
        self.ring = FeatureRing(self.contrastive.ring_size, 2 * width, dtype=dtype, on_cpu=self.contrastive.ring_on_cpu)

    def _own_generator(self, spec: TaskSpec) -> nn.Module:
        return ConvGenerator(spec.image_shape, latent_size=self.latent_size, width=self.generator_width)

    def _check(self, spec: TaskSpec) -> None:
        check_bn(self.bn_weight, spec)
        if (named := self.channel_means_of) and len(named) != len(spec.input_channels):
            raise ValueError(
                f"contrastive.features names {', '.join(named)}, expected the widths of their inputs as input_channels "
                f"of the TaskSpec, got {spec.input_channels}: CondKD measures them, in a loop of your own give them"
            )
        if self.contrasts and not self.needs_embedding and not self.channel_means_of and not spec.bn_channels:
            raise ValueError(
                "contrastive.features is 'batch_norm', but the teacher has no BatchNorm layer with running statistics: "
                "set contrastive.features to 'embedding', or contrastive_weight to 0, or use a teacher with BatchNorm"
            )
        given = self.generator_settings.network
        if given is not None and not hasattr(given, "initialize"):
            raise ValueError(
                f"every block starts the generator anew, but {type(given).__name__} has no method "
                "initialize(generator) that refills it from a torch.Generator: add it"
            )

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Return ``synthesis``, Adam over generator, latents and, with betas 0.9 and 0.999, the head."""
        groups: list[dict[str, Any]] = [{"params": self.per_round(), "lr": self.generator_lr, "betas": self.betas}]
        if self.contrasts:
            head = list(self.head.parameters())
            groups.append({"params": head, "lr": self.contrastive.head_lr, "betas": (0.9, 0.999)})
        return {"synthesis": Adam(groups)}

    def per_round(self) -> list[nn.Parameter]:
        """Return the generator's parameters and the latents; the head's Adam keeps its state between blocks."""
        return [*self.generator.parameters(), self.latent]

    def begin(self, unit: Unit, draw: Draw) -> None:
        """Refill the generator and draw latents and labels."""
        self.generator.initialize(draw.generator("generator"))  # type: ignore[operator]
        self.latent.copy_(torch.randn(self.latent.shape, generator=draw.generator("latent")))
        self.labels.copy_(torch.randint(self.num_classes, self.labels.shape, generator=draw.generator("labels")))

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return the generator's images of the latents."""
        return Synthetic(self.generator(self.latent[draw.rows]), self.labels[draw.rows])

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return class, BN-statistics, adversarial and contrastive terms; a term of weight 0 is left out."""
        view = self.view(synthetic.images, unit, draw)
        output = self._look(observe, view, bn=self.bn_weight != 0)
        terms = teacher_terms(output, synthetic.labels, lambda: student(view).logits)
        terms["contrastive"] = lambda: self._contrastive(synthetic.images, output, observe, draw)
        weights = {"class": self.class_weight, "bn": self.bn_weight, "contrastive": self.contrastive_weight}
        weights["adversarial"] = self.adversarial_weight if unit.round >= self.cadence.warmup_rounds else 0.0
        return LossTerms(terms, weights), output

    def _contrastive(self, images: Tensor, output: NetworkOutput, observe: Observe, draw: Draw) -> Tensor:
        local = self._look(observe, self.local_augment.view(images, draw, "local view"))
        return self._contrast(self._features(local), self._features(output), draw)

    def _look(self, observe: Observe, view: Tensor, bn: bool = False) -> NetworkOutput:
        channel_means = self.channel_means_of or (self.contrasts and not self.needs_embedding)
        return observe(view, bn=bn, embedding=self.needs_embedding, channel_means=channel_means)

    def _features(self, output: NetworkOutput) -> Tensor:
        return at_least_float32(cast(Tensor, output.embedding if self.needs_embedding else output.channel_means))

    def _contrast(self, local: Tensor, main: Tensor, draw: Draw) -> Tensor:
        batch = self._step_features = gather_rows(torch.cat([local, main], dim=1))
        remembered = self.ring.draw(self.contrastive.ring_draws, draw.generator("ring"))
        queries = self._project(torch.cat([local, remembered.chunk(2, dim=1)[0]]))
        with torch.no_grad():
            keys = self._project(torch.cat([batch, remembered]).chunk(2, dim=1)[1])
        here, there = len(local), len(batch)
        own = torch.arange(there)[draw.rows]
        views = queries[:here], keys[:there], queries[here:], keys[there:]
        return contrastive_loss(*views, self.contrastive.temperature, own)

    def _project(self, features: Tensor) -> Tensor:
        features = features.to(next(self.head.parameters()).dtype)
        return F.normalize(at_least_float32(self.head(features)), dim=1)

    def keep_more(self, better: Tensor) -> None:
        """Store the features of the kept images."""
        if self._step_features is not None:
            self.kept_features.copy_(torch.where(better, self._step_features, self.kept_features))

    def end(self, unit: Unit) -> Sequence[str]:
        """Write the features of the kept images to the ring."""
        if self.contrasts:
            self.ring.write(self.kept_features)
        return ()
