"""Fast (data-free inversion): a meta-learned generator with few steps per batch of images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Adam, Optimizer

from lightning_condkd.augment import Augment, CropFlip
from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.interfaces import Observe, Selection
from lightning_condkd.inversion.parts.card import FAST_TABLE, MethodCard, accuracies
from lightning_condkd.inversion.parts.generator import (
    GeneratorSettings,
    check_bn,
    complete,
    make_generator,
    with_published,
)
from lightning_condkd.inversion.parts.moving_statistics import MovingStatistics, check_momentum
from lightning_condkd.inversion.parts.teacher_terms import teacher_terms
from lightning_condkd.models.generators import ConvGenerator
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


class Fast(Inversion):
    """Fast inversion with a meta-generator, learned latents and BN-statistics momentum.

    Every block copies the meta-generator, optimises the copy together with a batch of latents, keeps the images of the
    step with the lowest loss and updates the meta-generator once. Defaults are those of the official code for CIFAR
    with five steps and the pair ResNet-34 to ResNet-18 unless noted.

    Args:
        cadence: 5 synthesis steps, 400 student steps, 20 warm-up rounds without student.
        batch_size: images of a block.
        generator: the generator. The copy has the given learning rate, the meta-generator that rate times
            ``synthesis_steps``. The default network is a :class:`~lightning_condkd.models.ConvGenerator`.
        latent_lr: learning rate of the latents.
        class_weight: weight of the cross-entropy to the sampled labels.
        bn_weight: weight of the distance to the teacher's BatchNorm statistics.
        adversarial_weight: weight of the student-teacher disagreement, used after the warm-up rounds.
        bn_momentum: share of the moving average in the compared statistics, 0 for the plain distance. With several
            ranks, the distance uses each rank's own batch, the moving average the mean over ranks.
        meta_update: ``fomaml`` sums the gradients of the inner steps, ``reptile`` uses the displacement of the copy.
        reset_round: round after warm-up at which the meta-generator's first layers are reset; ``None`` disables it.
        augment: the teacher's view; ``None`` for random crop (pad 4) and flip.
        selection: images to keep, see :class:`~lightning_condkd.inversion.base.Inversion`.

    Raises:
        ValueError: if an argument is out of its range; in :meth:`build`, if ``bn_weight`` is not 0 and the teacher has
            no BatchNorm layer, ``reset_round`` is set for a generator without ``reset_first_layers``, or the
            generator's latents or images have another shape.

    References:
        Fang et al., "Up to 100x Faster Data-Free Knowledge Distillation", AAAI 2022.
    """

    card = MethodCard(
        "Fast-Datafree (zju-vipa), CIFAR, 5 steps", published=accuracies(93.63, 72.82, 63.83), published_in=FAST_TABLE
    )
    finish_steps = ("meta",)
    inner: nn.Module
    meta: nn.Module
    labels: Tensor
    published: ClassVar[GeneratorSettings] = GeneratorSettings(64, 256, lr=3e-3, betas=(0.5, 0.999))

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(synthesis_steps=5, distill_steps=400, warmup_rounds=20),
        batch_size: int = 256,
        generator: GeneratorSettings = published,
        latent_lr: float = 0.01,
        class_weight: float = 0.5,
        bn_weight: float = 10.0,
        adversarial_weight: float = 1.33,
        bn_momentum: float = 0.9,
        meta_update: Literal["fomaml", "reptile"] = "fomaml",
        reset_round: int | None = 120,
        augment: Augment | None = None,
        selection: Selection = "total_loss",
    ) -> None:
        super().__init__(cadence, batch_size, CropFlip() if augment is None else augment, selection)
        if meta_update not in ("fomaml", "reptile"):
            raise ValueError(f"expected meta_update 'fomaml' or 'reptile', got {meta_update!r}")
        self.generator_settings = complete(generator, self.published)
        self.generator_width, self.latent_size, self.generator_lr, self.betas = self.generator_settings.numbers
        self.latent_lr = latent_lr
        self.class_weight, self.bn_weight, self.adversarial_weight = class_weight, bn_weight, adversarial_weight
        self.bn_momentum = check_momentum(bn_momentum)
        self.meta_update: Literal["fomaml", "reptile"] = meta_update
        self.reset_round = reset_round

    @classmethod
    def cifar(cls, steps: Literal[2, 5, 10] = 5, **arguments: Any) -> Fast:  # noqa: ANN401 - those of the class
        """Return one of the official code's three settings for CIFAR-10 and CIFAR-100.

        The weights are those for ResNet-34 to ResNet-18. For VGG-11 to ResNet-18 the code has
        ``adversarial_weight=1.0``, for WRN-40-2 to smaller ones ``adversarial_weight=1.1`` and ``class_weight=0.4``.

        Args:
            steps: synthesis steps in a round, which determine the learning rates.
            arguments: arguments of the class that replace those of the setting.

        Raises:
            ValueError: if there is no such setting.

        Example:
            >>> Fast.cifar(10, generator=GeneratorSettings(width=32)).generator_settings.numbers
            GeneratorNumbers(width=32, latent_size=256, lr=0.002, betas=(0.5, 0.999))
        """
        rates = {2: (5e-3, 0.015), 5: (3e-3, 0.01), 10: (2e-3, 0.01)}
        if steps not in rates:
            raise ValueError(f"expected 2, 5 or 10 synthesis steps, got {steps}: pass your own rates to Fast(...)")
        lr, latent_lr = rates[steps]
        setting = {"cadence": Cadence(steps, 400, warmup_rounds=20), "latent_lr": latent_lr, **arguments}
        return cls(**{**setting, "generator": with_published(arguments, GeneratorSettings(lr=lr))})

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create the two generators, the latents and the moving statistics."""
        self._check(spec)
        own = partial(self._own_generator, spec)
        self.meta = make_generator(self.generator_settings, own, spec, generator)
        self.inner = copy.deepcopy(self.meta)
        self.latent = nn.Parameter(torch.zeros(self.batch_size, self.latent_size))
        self.register_buffer("labels", torch.zeros(self.batch_size, dtype=torch.long))
        self.num_classes = spec.num_classes
        self.moving_statistics = MovingStatistics(spec.bn_channels, self.bn_momentum)
        for index, parameter in enumerate(self.meta.parameters()):
            self.register_buffer(f"meta_gradient_{index}", torch.zeros_like(parameter, requires_grad=False))

    def _own_generator(self, spec: TaskSpec) -> nn.Module:
        return ConvGenerator(spec.image_shape, latent_size=self.latent_size, width=self.generator_width)

    def _check(self, spec: TaskSpec) -> None:
        check_bn(self.bn_weight, spec)
        given = self.generator_settings.network
        if self.reset_round is not None and given is not None and not hasattr(given, "reset_first_layers"):
            raise ValueError(
                f"reset_round is {self.reset_round}, but {type(given).__name__} has no method "
                "reset_first_layers(generator): add it or set reset_round to None"
            )

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Return ``synthesis`` (the copy and the latents) and ``meta``, both Adam."""
        groups = [
            {"params": list(self.inner.parameters()), "lr": self.generator_lr},
            {"params": [self.latent], "lr": self.latent_lr},
        ]
        meta_lr = self.generator_lr * self.cadence.synthesis_steps
        return {
            "synthesis": Adam(groups, betas=self.betas),
            "meta": Adam(self.meta.parameters(), lr=meta_lr, betas=self.betas),
        }

    def per_round(self) -> list[nn.Parameter]:
        """Return the copy's parameters and the latents: the official code makes a new Adam for every batch."""
        return [*self.inner.parameters(), self.latent]

    def begin(self, unit: Unit, draw: Draw) -> None:
        """Copy the meta-generator and draw latents and labels."""
        if self._resets(unit):
            self.meta.reset_first_layers(draw.generator("reset"))  # type: ignore[operator]
        self.inner.load_state_dict(self.meta.state_dict())
        self.latent.copy_(torch.randn(self.latent.shape, generator=draw.generator("latent")))
        self.labels.copy_(torch.randint(self.num_classes, self.labels.shape, generator=draw.generator("labels")))
        for gradient in self._meta_gradients():
            gradient.zero_()

    def _resets(self, unit: Unit) -> bool:
        due = None if self.reset_round is None else self.reset_round + self.cadence.warmup_rounds
        return unit.block == unit.batch == 0 and unit.round == due

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return the copy's images of the latents."""
        return Synthetic(self.inner(self.latent[draw.rows]), self.labels[draw.rows])

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
        """Add up the gradients for the meta-generator, and store the last step's statistics."""
        if self.meta_update == "fomaml":
            self._add_up_gradients()
        if unit.last and output.bn:
            self.moving_statistics.update(output.bn)

    def end(self, unit: Unit) -> Sequence[str]:
        """Write the meta-generator's gradient: the sum over inner steps (FOMAML) or the displacement (Reptile)."""
        displacement = (m - i for m, i in zip(self.meta.parameters(), self.inner.parameters(), strict=True))
        gradients = self._meta_gradients() if self.meta_update == "fomaml" else displacement
        for parameter, gradient in zip(self.meta.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        return ("meta",)

    def _meta_gradients(self) -> Iterator[Tensor]:
        return (self.get_buffer(f"meta_gradient_{index}") for index, _ in enumerate(self.meta.parameters()))

    def _add_up_gradients(self) -> None:
        pairs = zip(self._meta_gradients(), self.inner.parameters(), strict=True)
        reached = [(total, parameter.grad) for total, parameter in pairs if parameter.grad is not None]
        # A gradient scaler skips the copy's step if half precision overflows; the meta-generator must also skip it.
        finite = get_total_norm([gradient for _, gradient in reached]).isfinite()
        for total, gradient in reached:
            total.add_(torch.where(finite, gradient, 0.0))
