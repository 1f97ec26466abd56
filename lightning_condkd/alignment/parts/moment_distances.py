"""Distances that :class:`MomentAlignment` measures between synthetic and condensed features, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_condkd.functional import moments
from lightning_condkd.randomness import Draw, send


class ClassFeatures(NamedTuple):
    """Features with their classes.

    Args:
        values: ``(N, D)``.
        labels: classes, ``(N,)`` int64.
    """

    values: Tensor
    labels: Tensor


class MomentDistance:
    """Base of the distances between the features of every class; a subclass writes :meth:`between`."""

    def between(self, synthetic: ClassFeatures, condensed: ClassFeatures, num_classes: int, draw: Draw) -> Tensor:
        """Return the distance of every class, ``(K,)``; the value of a class without synthetic samples is ignored.

        Args:
            synthetic: features of the global batch, with a graph.
            condensed: features of all condensed images.
            num_classes: number of classes K.
            draw: randomness of the step.
        """
        raise NotImplementedError(f"{type(self).__name__}.between: write the distance of every class")


@dataclass(frozen=True)
class GaussianMMD(MomentDistance):
    """Squared maximum mean discrepancy with a sum of Gaussian kernels.

    Args:
        bandwidths: standard deviations of the kernels, in units of the features (code of PGDI).

    Raises:
        ValueError: if there is none or one is not positive.

    References:
        :func:`lightning_condkd.functional.moments.class_mmd`.
    """

    bandwidths: tuple[float, ...] = (0.1, 1.0, 5.0, 10.0)

    def __post_init__(self) -> None:
        if not self.bandwidths or min(self.bandwidths) <= 0:
            raise ValueError(f"bandwidths: expected at least one positive number, got {self.bandwidths}")

    def between(self, synthetic: ClassFeatures, condensed: ClassFeatures, num_classes: int, draw: Draw) -> Tensor:
        """Return the distance of every class, see :meth:`MomentDistance.between`."""
        return moments.class_mmd(*synthetic, *condensed, num_classes, self.bandwidths)


@dataclass(frozen=True)
class ClassMeans(MomentDistance):
    """Squared Euclidean distance between the means, as distribution matching measures it in condensation.

    References:
        :func:`lightning_condkd.functional.moments.class_mean_distance`.
    """

    def between(self, synthetic: ClassFeatures, condensed: ClassFeatures, num_classes: int, draw: Draw) -> Tensor:
        """Return the distance of every class, see :meth:`MomentDistance.between`."""
        return moments.class_mean_distance(*synthetic, *condensed, num_classes)


@dataclass(frozen=True)
class CharacteristicFunction(MomentDistance):
    """Distance between the empirical characteristic functions of normalised features, at frequencies of each step.

    Args:
        frequencies: number of frequencies, standard normal, drawn anew in every step (code of NCFM: 4096; there a
            network may learn them, here it does not).
        amplitude_share: weight of the amplitude's difference, the rest is the phase's (code of NCFM).

    Raises:
        ValueError: if a number is out of its range.

    References:
        :func:`lightning_condkd.functional.moments.characteristic_distance`.
    """

    frequencies: int = 4096
    amplitude_share: float = 0.5

    def __post_init__(self) -> None:
        if self.frequencies < 1:
            raise ValueError(f"frequencies: expected a positive count, got {self.frequencies}")
        if not 0 <= self.amplitude_share <= 1:
            raise ValueError(f"amplitude_share: expected a number from 0 to 1, got {self.amplitude_share}")

    def between(self, synthetic: ClassFeatures, condensed: ClassFeatures, num_classes: int, draw: Draw) -> Tensor:
        """Return the distance of every class, see :meth:`MomentDistance.between`."""
        shape = (self.frequencies, condensed.values.shape[1])
        frequencies = torch.randn(shape, generator=draw.generator("frequencies"))
        return moments.characteristic_distance(
            *synthetic, *condensed, num_classes, send(frequencies, synthetic.values.device), self.amplitude_share
        )
