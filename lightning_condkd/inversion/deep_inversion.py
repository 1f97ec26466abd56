"""DeepInversion: optimisation of pixels, one batch of images at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lightning_condkd.augment import Augment, RollFlip
from lightning_condkd.functional.inversion import bn_distance, class_loss, image_norm, total_variation
from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.interfaces import Observe, Selection
from lightning_condkd.inversion.parts.card import FAST_TABLE, MethodCard, accuracies
from lightning_condkd.inversion.parts.competition import Competition
from lightning_condkd.inversion.parts.generator import check_bn
from lightning_condkd.inversion.parts.pixel_optimizer import ImagePrior, PixelAdam, check_choice
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import BatchNormStatistics, LossTerms, NetworkOutput, Synthetic, TaskSpec

Labels = Literal["balanced", "uniform"]


class DeepInversion(Inversion):
    """Inversion by optimising pixels to match the teacher's BatchNorm statistics.

    Every block starts from normal noise in the teacher's normalised units and optimises the pixels with a fresh Adam.
    A ``competition`` adds a term that depends on the current student; this is Adaptive DeepInversion. Defaults are
    those of the official code for the paper's CIFAR-10 run; :meth:`imagenet` and :meth:`datafree` are two other
    published settings. The student's settings were never published: its 400 steps in a round are those of the DataFree
    code.

    Total variation and image norm are computed on the teacher's view, in normalised units. Norms over a whole batch are
    those of the global batch, whatever the number of ranks.

    Args:
        cadence: 2000 synthesis steps and 400 student steps.
        batch_size: images of a block.
        optimizer: settings of the pixels' Adam.
        low_resolution_steps: number of steps at the start of a block whose view has half size, by 2x2 mean pooling; the
            teacher must accept that size. After them Adam and the learning rate's schedule start anew, and only images
            of later steps are kept. The augmentation is applied before the pooling, so its pixels are those of the full
            image.
        class_weight: weight of the cross-entropy to the labels.
        bn_weight: weight of the distance to the teacher's BatchNorm statistics, those of each rank's own batch.
        first_bn_factor: factor of the first layer in that distance.
        prior: weights and forms of total variation and image norm.
        competition: the term against the student, used after the warm-up rounds; ``None`` disables it.
        clip: whether pixels are clamped to [0, 1] after each step. Without it some end outside (one in twenty for
            a CIFAR-10 batch, one in four for digits, which are mostly black), and the bank clamps them.
        labels: ``balanced`` for equally many of every class, up to one; ``uniform`` for random ones.
        augment: the teacher's view; ``None`` for a roll of up to 2 pixels that the whole batch shares.
        selection: images to keep, see :class:`~lightning_condkd.inversion.base.Inversion`.

    Raises:
        ValueError: if an argument is out of its range; in :meth:`build`, if ``bn_weight`` is not 0 and the teacher has
            no BatchNorm layer.

    Example:
        >>> adaptive = DeepInversion.imagenet(competition=Competition(weight=0.2))
        >>> DeepInversion().cadence.synthesis_steps, adaptive.bn_weight
        (2000, 0.01)

    References:
        Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020.
    """

    card = MethodCard(
        "DeepInversion (NVlabs), CIFAR-10; student: DataFree",
        published=accuracies(93.26, 61.32, 61.34),
        published_in=FAST_TABLE,
    )
    balanced_labels = True
    student_lr_floor = 0.0
    labels: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(synthesis_steps=2000, distill_steps=400),
        batch_size: int = 256,
        optimizer: PixelAdam = PixelAdam(),
        low_resolution_steps: int = 0,
        class_weight: float = 1.0,
        bn_weight: float = 10.0,
        first_bn_factor: float = 1.0,
        prior: ImagePrior = ImagePrior(),
        competition: Competition | None = None,
        clip: bool = False,
        labels: Labels = "balanced",
        augment: Augment | None = None,
        selection: Selection = "total_loss",
    ) -> None:
        view = RollFlip(2, flip_probability=0.0) if augment is None else augment
        super().__init__(cadence, batch_size, view, selection)
        if not 0 <= low_resolution_steps <= cadence.synthesis_steps:
            raise ValueError(
                f"expected low_resolution_steps between 0 and the {cadence.synthesis_steps} synthesis_steps of the "
                f"cadence, got {low_resolution_steps}"
            )
        check_choice("labels", labels, Labels)
        self.optimizer, self.low_resolution_steps = optimizer, low_resolution_steps
        self.class_weight, self.bn_weight, self.first_bn_factor = class_weight, bn_weight, first_bn_factor
        self.prior, self.competition = prior, competition or Competition(weight=0.0)
        self.clip, self.balanced_labels = clip, labels == "balanced"

    @staticmethod
    def imagenet(
        *,
        cadence: Cadence = Cadence(synthesis_steps=3000, distill_steps=400),
        batch_size: int = 84,
        pixel_lr: float = 0.25,
        bn_weight: float = 0.01,
        augment: Augment | None = None,
        **arguments: Any,  # noqa: ANN401 - those of the class
    ) -> DeepInversion:
        """Return the official code's multi-resolution setting for ImageNet: the ResNet-50 run of its readme.

        The paper's ImageNet run has 20000 steps without low resolution or clipping. Adaptive DeepInversion adds
        ``competition=Competition(weight=0.2)``.

        Args:
            cadence: 3000 synthesis steps; two thirds of them are at half size.
            batch_size: images of a block.
            pixel_lr: learning rate of Adam; other networks had 0.2.
            bn_weight: weight of the distance to the teacher's BatchNorm statistics; other networks had up to 0.05.
            augment: ``None`` for a roll of up to 30 pixels and a flip that the whole batch shares.
            arguments: those of :class:`DeepInversion` that the setting leaves at their defaults.
        """
        return DeepInversion(
            cadence=cadence,
            batch_size=batch_size,
            augment=RollFlip(30) if augment is None else augment,
            optimizer=PixelAdam(pixel_lr, betas=(0.5, 0.9), warmup_steps=100, cosine=True),
            low_resolution_steps=2 * cadence.synthesis_steps // 3,
            bn_weight=bn_weight,
            first_bn_factor=10.0,
            prior=ImagePrior(1e-4, image_norm_weight=1e-5, image_norm="image"),
            clip=True,
            **arguments,
        )

    @staticmethod
    def datafree(
        *,
        cadence: Cadence = Cadence(synthesis_steps=1000, distill_steps=400),
        batch_size: int = 256,
        competition: Competition = Competition(),
        augment: Augment | None = None,
        **arguments: Any,  # noqa: ANN401 - those of the class
    ) -> DeepInversion:
        """Return the setting of the DataFree code's port to CIFAR, with a term against the student.

        The port computes the total variation on the images before the roll, and does not limit the divergence.

        Args:
            cadence: 1000 synthesis steps and 400 student steps.
            batch_size: images of a block.
            competition: the term against the student.
            augment: ``None`` for a roll of up to 4 pixels, an eighth of the side, and a flip that the whole batch
                shares.
            arguments: those of :class:`DeepInversion` that the setting leaves at their defaults.
        """
        return DeepInversion(
            cadence=cadence,
            batch_size=batch_size,
            augment=RollFlip(4) if augment is None else augment,
            optimizer=PixelAdam(0.1, betas=(0.5, 0.99)),
            prior=ImagePrior(1e-3, total_variation="l1"),
            competition=competition,
            clip=True,
            labels="uniform",
            **arguments,
        )

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create the pixels and their labels."""
        check_bn(self.bn_weight, spec)
        self.num_classes = spec.num_classes
        self.pixels = nn.Parameter(torch.zeros(self.batch_size, *spec.image_shape))
        self.register_buffer("labels", torch.zeros(self.batch_size, dtype=torch.long))
        self.register_buffer("mean", torch.tensor(spec.mean or (0.0,)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std or (1.0,)).view(-1, 1, 1), persistent=False)

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Return ``synthesis``, an Adam over the pixels."""
        return {"synthesis": Adam([self.pixels], lr=self.optimizer.lr, betas=self.optimizer.betas)}

    def per_round(self) -> list[nn.Parameter]:
        """Return the pixels, since every block has a new Adam."""
        return [self.pixels]

    def forgets(self, unit: Unit) -> list[nn.Parameter]:
        """Return the pixels at the start of a block and at the change to full size (official code: a new Adam)."""
        return [self.pixels] if unit.first or unit.step == self.low_resolution_steps else []

    def lr_factor(self, unit: Unit) -> float:
        """Return the learning rate factor of warm-up and cosine, which restart at full size."""
        low = self.low_resolution_steps
        if unit.step < low:
            return self.optimizer.factor(unit.step, low)
        return self.optimizer.factor(unit.step - low, self.cadence.synthesis_steps - low)

    def begin(self, unit: Unit, draw: Draw) -> None:
        """Draw noise and labels."""
        self.pixels.copy_(torch.randn(self.pixels.shape, generator=draw.generator("pixels")))
        self.labels.copy_(self._draw_labels(draw.generator("labels")))

    def _draw_labels(self, generator: torch.Generator) -> Tensor:
        if not self.balanced_labels:
            return torch.randint(self.num_classes, (self.batch_size,), generator=generator)
        # In the order of the classes: every rank, with rows [rank::world_size], gets its share of each class.
        order = torch.randperm(self.num_classes, generator=generator)
        return order[torch.arange(self.batch_size) * self.num_classes // self.batch_size]

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return the pixels in the units of [0, 1], unbounded."""
        return Synthetic(self.pixels[draw.rows] * self.std + self.mean, self.labels[draw.rows])

    def view(self, images: Tensor, unit: Unit, draw: Draw, purpose: str = "view") -> Tensor:
        """Return the main view, at half size in the first ``low_resolution_steps`` steps."""
        view = super().view(images, unit, draw, purpose)
        return F.avg_pool2d(view, 2) if unit.step < self.low_resolution_steps else view

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return the terms whose weight is not 0."""
        view = self.view(synthetic.images, unit, draw)
        output = observe(view, bn=self.bn_weight != 0)
        normalized = (view - self.mean) / self.std
        terms: dict[str, Callable[[], Tensor]] = {
            "class": lambda: class_loss(output.logits, self.labels[draw.rows]),
            "bn": lambda: self._bn_distance(output.bn),
            "total_variation": lambda: self._total_variation(normalized, draw),
            "image_norm": lambda: self._image_norm(normalized, draw),
            "competition": lambda: self.competition.loss(output.logits, student(view).logits),
        }
        return LossTerms(terms, self._weights(unit)), output

    def _weights(self, unit: Unit) -> dict[str, float]:
        return {
            "class": self.class_weight,
            "bn": self.bn_weight,
            "total_variation": self.prior.total_variation_weight,
            "image_norm": self.prior.image_norm_weight,
            "competition": self.competition.weight if unit.round >= self.cadence.warmup_rounds else 0.0,
        }

    def _bn_distance(self, statistics: Sequence[BatchNormStatistics]) -> Tensor:
        distance = bn_distance(statistics)
        if self.first_bn_factor != 1:
            distance = distance + (self.first_bn_factor - 1) * bn_distance(statistics[:1])
        return distance

    # A norm over the rows of one rank is smaller than one over the global batch, by the root of the number of ranks.

    def _total_variation(self, images: Tensor, draw: Draw) -> Tensor:
        value = total_variation(images, self.prior.total_variation)
        return value * draw.world_size**0.5 if self.prior.total_variation == "l2" else value

    def _image_norm(self, images: Tensor, draw: Draw) -> Tensor:
        value = image_norm(images, self.prior.image_norm)
        return value * draw.world_size**0.5 if self.prior.image_norm == "batch" else value

    def observe_step(self, synthetic: Synthetic, output: NetworkOutput, unit: Unit) -> Synthetic | None:
        """Discard images of half size, and clamp the pixels to the valid range."""
        if unit.step == self.low_resolution_steps:
            self.kept_loss.fill_(torch.inf)  # losses at half size are not comparable
        if not self.clip:
            return None
        self.pixels.clamp_(-self.mean / self.std, (1 - self.mean) / self.std)
        return synthetic._replace(images=synthetic.images.clamp(0, 1))
