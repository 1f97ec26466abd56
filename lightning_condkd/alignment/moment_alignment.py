"""Alignment by distances between distributions: class by class, without a network of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from lightning_condkd.alignment.base import Alignment
from lightning_condkd.alignment.parts.moment_distances import ClassFeatures, GaussianMMD, MomentDistance
from lightning_condkd.augment import Augment
from lightning_condkd.distributed import gather_rows, gather_with_gradient
from lightning_condkd.functional.matching import class_means
from lightning_condkd.functional.moments import (
    class_prediction_divergence,
    class_weighted_mean,
    nearest_in_class,
)
from lightning_condkd.models.taps import convolutions
from lightning_condkd.precision import at_least_float32
from lightning_condkd.randomness import Draw
from lightning_condkd.types import LossTerms, NetworkOutput

Features = Literal["convolutions", "embedding"]
TEMPERATURE, DIVERGENCE_SHARE = 2.0, 0.997


class MomentAlignment(Alignment):
    """A distance between the features of synthetic images and those of all condensed images of the same class.

    It has nothing to train: no discriminator that could learn the few condensed images by heart, no second optimizer.
    Features of the condensed images are computed once, without augmentation, as in the code of PGDI, which aligns with
    a few real images of each class. The distance is over the synthetic images of all ranks together.

    Args:
        distance: what is measured for every class, the mean is weighted by the synthetic images of the classes;
            ``None`` for :class:`~lightning_condkd.alignment.GaussianMMD`.
        features: ``convolutions`` for the spatial means of the inputs of all convolutions of the teacher, concatenated
            (code of PGDI); ``embedding``, which every teacher has; or names of modules of the teacher, for the spatial
            means of their inputs.
        weight: factor of the distance (code of PGDI, where the weight of the class loss is 0.001); 0 leaves it out.
        logits_weight: factor of a term on the teacher's logits: 0.997 times the divergence of the prediction, at
            temperature 2, from the mean prediction for the condensed images of the class, and 0.003 times the squared
            distance of the logits to those of the nearest one (code of PGDI, there with weight 1); 0 leaves it out (our
            default).
        ramp_rounds: rounds over which the weights rise from 0 to their values; 0 for full weights from the start.
        augment: differentiable augmentation of the synthetic images before the teacher sees them for the alignment;
            ``None`` uses the view of the inversion.

    Raises:
        TypeError: if the distance has another type.
        ValueError: if a weight is negative or the features are unknown; in :meth:`asks`, if the teacher has no
            convolution or no such module.

    Example:
        >>> from lightning_condkd.randomness import seeded_generator
        >>> from lightning_condkd.types import NetworkOutput, TaskSpec
        >>> alignment = MomentAlignment(features="embedding", weight=2.0)
        >>> alignment.build(TaskSpec((1, 8, 8), num_classes=2, embedding_size=3), seeded_generator(0, "alignment"))
        >>> condensed, labels = NetworkOutput(torch.eye(2), torch.zeros(2, 3)), torch.arange(2)
        >>> alignment.remember("condensed set", condensed, labels)
        >>> alignment(condensed, labels, 0, Draw(seed=0, step=0)).values
        {'alignment': tensor(0.)}

    References:
        "Prior-Guided Deep Inversion for Few-Shot Knowledge Distillation" (PGDI), official code.
    """

    needs_condensed = True
    recorded: ClassVar[tuple[str, ...]] = ("compared",)

    def __init__(
        self,
        distance: MomentDistance | None = None,
        *,
        features: Features | Sequence[str] = "convolutions",
        weight: float = 100.0,
        logits_weight: float = 0.0,
        ramp_rounds: int = 0,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(weight, ramp_rounds, augment)
        if logits_weight < 0:
            raise ValueError(f"logits_weight: expected zero (no such term) or a positive number, got {logits_weight}")
        if not features or (isinstance(features, str) and features not in ("convolutions", "embedding")):
            raise ValueError(
                f"features: expected 'convolutions', 'embedding' or a list of names of modules, got {features!r}"
            )
        given: object = distance
        if given is not None and not isinstance(given, MomentDistance):
            got = getattr(given, "__name__", type(given).__name__)
            raise TypeError(f"distance: expected a MomentDistance such as GaussianMMD(), got {got}")
        self.distance = GaussianMMD() if distance is None else distance
        self.compared = features if isinstance(features, str) else tuple(features)
        self.logits_weight = logits_weight

    @property
    def active(self) -> bool:
        """Return whether alignment takes part in training."""
        return bool(self.weight or self.logits_weight)

    @classmethod
    def pgdi(cls, **arguments: Any) -> MomentAlignment:  # noqa: ANN401 - those of the class
        """Return the settings of the code of PGDI: MMD of convolutions' inputs with weight 100, logits with weight 1.

        Its inversion is :class:`~lightning_condkd.inversion.Fast` with other weights: ``configs/methods/pgdi.yaml``.

        Args:
            arguments: arguments with other values.
        """
        return cls(**{"weight": 100.0, "logits_weight": 1.0, **arguments})

    def asks(self, network: nn.Module) -> dict[str, Any]:
        """Return the arguments of the teacher's forward pass, see :meth:`Alignment.asks`."""
        if self.compared == "embedding":
            return {"embedding": True}
        if self.compared != "convolutions":
            there = dict(network.named_modules())
            if missing := [name for name in self.compared if name not in there]:
                raise ValueError(f"features: the teacher has no module {missing[0]!r}; there are: {', '.join(there)}")
            return {"channel_means": self.compared}
        if not (names := convolutions(network)):
            name = type(network).__name__
            raise ValueError(f"features is 'convolutions', but {name} has no nn.Conv2d: set features to 'embedding'")
        return {"channel_means": tuple(names)}

    def features(self, output: NetworkOutput) -> Tensor:
        """Return what is compared, ``(N, D)``."""
        found = output.embedding if self.compared == "embedding" else output.channel_means
        return at_least_float32(cast(Tensor, found))

    def loss(self, output: NetworkOutput, labels: Tensor, ramp: float, draw: Draw) -> LossTerms:
        """Return ``alignment`` and, if it has a weight, ``alignment_logits``."""
        terms: dict[str, Callable[[], Tensor]] = {
            "alignment": lambda: self._distance(self.features(output), labels, draw),
            "alignment_logits": lambda: self._logits_loss(output.logits, labels),
        }
        weights = {"alignment": ramp * self.weight, "alignment_logits": ramp * self.logits_weight}
        with torch.autocast(labels.device.type, enabled=False):  # differences of close numbers
            return LossTerms(terms, weights)

    def _distance(self, features: Tensor, labels: Tensor, draw: Draw) -> Tensor:
        everywhere, (output, classes) = gather_rows(labels), self.condensed
        synthetic = ClassFeatures(gather_with_gradient(features), everywhere)
        condensed = ClassFeatures(self.features(output).to(features), classes)
        return class_weighted_mean(self.distance.between(synthetic, condensed, self._num_classes, draw), everywhere)

    def _logits_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        output, classes = self.condensed
        mean_predictions = class_means((output.logits / TEMPERATURE).softmax(1), classes, self._num_classes)
        divergence = class_prediction_divergence(logits, labels, mean_predictions, TEMPERATURE)
        nearest = nearest_in_class(logits, labels, output.logits, classes)
        return DIVERGENCE_SHARE * divergence + (1 - DIVERGENCE_SHARE) * nearest
