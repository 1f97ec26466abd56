"""DAFL (data-free learning): a generator trained for confident, strongly activated and class-balanced predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from lightning_condkd.functional.inversion import activation_loss, balance_loss, class_loss
from lightning_condkd.inversion.interfaces import Mode, Observe, Source
from lightning_condkd.inversion.live import LiveInversion
from lightning_condkd.inversion.parts.card import FAST_TABLE, MethodCard, accuracies
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


class DAFL(LiveInversion):
    """Inversion with a generator trained for the teacher's confident and balanced predictions and large embeddings.

    The student does not affect it and minimises :class:`~lightning_condkd.distillation.KLDistillation` at temperature
    1. Defaults are those of the official code for CIFAR-10. Presets exist for :meth:`cifar100`, :meth:`mnist` and the
    :meth:`datafree` port. Settings of the student in the official code: the same batch size, SGD with lr 0.1, momentum
    0.9 and weight decay 5e-4, a tenth of the lr after 800 and 1600 of 2000 rounds.

    Args:
        cadence: 1 generator step and 1 student step, 120 times a round. The official code uses the same images for both
            steps; here the student's images are generated after the generator's step, from new latents.
        batch_size: images of a generator step.
        generator: the generator and its Adam (official code, CIFAR-10). The width is the number of channels in all
            stages of the default network but the last, which has half as many.
        generator_output: ``normalized`` builds :class:`~lightning_condkd.models.NormalizedGenerator`, whose images are
            normalised as the teacher's input and may leave [0, 1]; ``sigmoid`` builds
            :class:`~lightning_condkd.models.ConvGenerator` with the same widths.
        generator_bn_eps: eps of the BatchNorm layers between the stages of the normalised generator. The official code
            has 0.8, probably meant as a momentum; its results were obtained with it.
        class_weight: weight of the cross-entropy to the classes predicted by the teacher, taken as constants.
        activation_weight: weight of the negative mean magnitude of the teacher's embedding.
        balance_weight: weight of the negative entropy of the mean prediction, over each rank's own batch.
        balance_log10: whether to use the entropy to base 10, as in the official code; the natural one is 2.303 times as
            large.
        source: ``live``, or ``bank`` to store images, clamped to [0, 1].
        sample_mode: mode of the generator when it renders images for a student step, see
            :class:`~lightning_condkd.inversion.live.LiveInversion`; ``None`` for ``train`` (official code).

    Raises:
        ValueError: if an argument is unknown, or in :meth:`build`, if the generator does not fit the task.

    Example:
        >>> DAFL.cifar100(batch_size=256).balance_weight
        20.0

    References:
        Chen et al.: "Data-Free Learning of Student Networks", ICCV 2019, arXiv 1904.01186.
    """

    card = MethodCard(
        "DAFL (Huawei Noah), CIFAR-10", published=accuracies(92.22, 74.47, 43.70), published_in=FAST_TABLE
    )
    published: ClassVar[GeneratorSettings] = GeneratorSettings(128, 1000, lr=0.02, betas=(0.9, 0.999))

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(synthesis_steps=1, distill_steps=1, repeats=120),
        batch_size: int = 1024,
        generator: GeneratorSettings = published,
        generator_output: GeneratorOutput = "normalized",
        generator_bn_eps: float = 1e-5,
        class_weight: float = 0.05,
        activation_weight: float = 0.01,
        balance_weight: float = 5.0,
        balance_log10: bool = True,
        source: Source = "live",
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
        self.generator_output = check_output(generator_output)
        self.generator_bn_eps = generator_bn_eps
        self.class_weight, self.activation_weight = class_weight, activation_weight
        self.balance_weight, self.balance_log10 = balance_weight, balance_log10
        self.needs_embedding = activation_weight != 0

    @classmethod
    def cifar100(cls, **arguments: Any) -> DAFL:  # noqa: ANN401 - those of the class
        """Return the method with the values of the official code for CIFAR-100.

        Args:
            arguments: arguments with other values.
        """
        weights = {"class_weight": 0.5, "activation_weight": 0.1, "balance_weight": 20.0}
        return cls(**{**weights, **arguments})

    @classmethod
    def mnist(cls, **arguments: Any) -> DAFL:  # noqa: ANN401 - those of the class
        """Return the method with the values of the official code for MNIST at 32 px.

        Its student: Adam, lr 2e-3, 200 rounds. Mode collapse is a known issue: all images become the same.

        Args:
            arguments: arguments with other values.
        """
        weights = {"class_weight": 1.0, "activation_weight": 0.1, "balance_weight": 5.0}
        generator = with_published(arguments, GeneratorSettings(latent_size=100, lr=0.2))
        return cls(**{**weights, "batch_size": 512, **arguments, "generator": generator})

    @classmethod
    def datafree(cls, **arguments: Any) -> DAFL:  # noqa: ANN401 - those of the class
        """Return the method with the values of the DataFree code for CIFAR-10.

        Its student: SGD, lr 0.1, momentum 0.9, weight decay 1e-4, cosine over 200 rounds of 400 steps. Its generator
        has twice as many channels in its first stages.

        Args:
            arguments: arguments with other values.
        """
        weights = {"class_weight": 1.0, "activation_weight": 1e-3, "balance_weight": 20.0, "balance_log10": False}
        generator = with_published(arguments, GeneratorSettings(latent_size=512, lr=1e-3, betas=(0.5, 0.999)))
        cadence = Cadence(synthesis_steps=1, distill_steps=5, repeats=80)
        setting = {"generator_output": "sigmoid", "cadence": cadence, "batch_size": 256}
        setting |= {} if arguments.get("source") == "bank" else {"sample_mode": "eval"}
        method = cls(**{**weights, **setting, **arguments, "generator": generator})
        method.student_lr_floor = 0.0
        return method

    def default_generator(self, spec: TaskSpec) -> nn.Module:
        """Return the generator of ``generator_output``."""
        return make_output(self.generator_output, spec, self.generator_settings, bn_eps=self.generator_bn_eps)

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return class, activation and balance terms; a term of weight 0 is left out."""
        output = observe(self.view(synthetic.images, unit, draw), embedding=self.needs_embedding)
        terms: dict[str, Callable[[], Tensor]] = {
            "class": lambda: class_loss(output.logits, output.logits.argmax(1)),
            "activation": lambda: activation_loss(cast(Tensor, output.embedding)),
            "balance": lambda: balance_loss(output.logits, log10=self.balance_log10),
        }
        weights = {"class": self.class_weight, "activation": self.activation_weight, "balance": self.balance_weight}
        return LossTerms(terms, weights), output
