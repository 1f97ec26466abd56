"""Settings of the pixels' optimizer and of the image priors, total variation and norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from lightning_condkd.functional.inversion import ImageNorm, TotalVariation


def check_choice(name: str, value: str, choices: object) -> None:
    """Check that a value is one of the choices of a ``Literal``.

    Args:
        name: name of the argument.
        value: value of the argument.
        choices: the ``Literal``.

    Raises:
        ValueError: if it is not.

    Example:
        >>> from typing import Literal
        >>> check_choice("labels", "balanced", Literal["balanced", "uniform"])
    """
    if value not in get_args(choices):
        raise ValueError(f"expected {name} {' or '.join(map(repr, get_args(choices)))}, got {value!r}")


@dataclass(frozen=True)
class PixelAdam:
    """Adam over the pixels and the schedule of its learning rate.

    Args:
        lr: learning rate, in normalised units.
        betas: betas of Adam.
        warmup_steps: steps over which the learning rate rises linearly.
        cosine: whether the learning rate then falls to 0 along a cosine.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> adam = PixelAdam(warmup_steps=2, cosine=True)
        >>> [round(adam.factor(step, 6), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """

    lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    cosine: bool = False

    def __post_init__(self) -> None:
        if self.lr < 0 or self.warmup_steps < 0:
            raise ValueError(f"expected lr >= 0 and warmup_steps >= 0, got {self.lr} and {self.warmup_steps}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"expected two betas in [0, 1), got {self.betas}")

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the learning rate at a step.

        Args:
            step: the step, from 0.
            steps: number of steps.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if not self.cosine:
            return 1.0
        return (1 + math.cos(math.pi * (step - self.warmup_steps) / (steps - self.warmup_steps))) / 2


@dataclass(frozen=True)
class ImagePrior:
    """DeepInversion's image priors, in normalised units.

    Args:
        total_variation_weight: weight of the total variation.
        total_variation: its form, ``l2`` or ``l1``; see
            :func:`~lightning_condkd.functional.inversion.total_variation`.
        image_norm_weight: weight of the norm of the images.
        image_norm: its form, ``batch`` or ``image``; see :func:`~lightning_condkd.functional.inversion.image_norm`.

    Raises:
        ValueError: if a form is unknown.
    """

    total_variation_weight: float = 2.5e-5
    total_variation: TotalVariation = "l2"
    image_norm_weight: float = 0.0
    image_norm: ImageNorm = "batch"

    def __post_init__(self) -> None:
        check_choice("total_variation", self.total_variation, TotalVariation)
        check_choice("image_norm", self.image_norm, ImageNorm)
