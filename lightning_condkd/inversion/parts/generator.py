"""Settings of a method's generator, its creation for a task, and a check of the teacher's BatchNorm layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import nn

from lightning_condkd.models.checks import check_generator
from lightning_condkd.models.generators import ConvGenerator, NormalizedGenerator
from lightning_condkd.randomness import seeded_initialization
from lightning_condkd.types import TaskSpec

GeneratorOutput = Literal["normalized", "sigmoid"]


def check_bn(bn_weight: float, spec: TaskSpec) -> None:
    """Check that the teacher has the BatchNorm layers that a weighted term needs.

    Args:
        bn_weight: weight of the term.
        spec: shapes of the task.

    Raises:
        ValueError: if the weight is not 0 and the teacher has no BatchNorm layer.
    """
    if bn_weight and not spec.bn_channels:
        raise ValueError(
            f"bn_weight is {bn_weight}, but the teacher has no BatchNorm layer with running statistics: "
            "set bn_weight to 0 (the method then runs without its BN term) or use a teacher with BatchNorm"
        )


class GeneratorNumbers(NamedTuple):
    """All numbers of :class:`GeneratorSettings`, none of them ``None``."""

    width: int
    latent_size: int
    lr: float
    betas: tuple[float, float]


@dataclass(frozen=True)
class GeneratorSettings:
    """Settings of a method's generator and its Adam; ``None`` takes the method's default.

    Args:
        width: base width of the method's default network.
        latent_size: length of a latent.
        lr: learning rate of Adam.
        betas: betas of Adam.
        network: network from latents ``(N, latent_size)`` to images ``(N, C, H, W)`` in the units of [0, 1], which is
            copied; ``None`` for the method's default network.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> GeneratorSettings(width=16).over(GeneratorSettings(64, 256, 1e-3, (0.5, 0.999))).numbers
        GeneratorNumbers(width=16, latent_size=256, lr=0.001, betas=(0.5, 0.999))
    """

    width: int | None = None
    latent_size: int | None = None
    lr: float | None = None
    betas: tuple[float, float] | None = None
    network: nn.Module | None = None

    def __post_init__(self) -> None:
        for name in ("width", "latent_size"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"expected {name} of the generator of at least 1, got {count}")
        if self.lr is not None and self.lr < 0:
            raise ValueError(f"expected lr of the generator of at least 0, got {self.lr}")
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"expected betas of the generator in [0, 1), got {self.betas}")

    def over(self, defaults: GeneratorSettings) -> GeneratorSettings:
        """Return these settings with missing values (``None``) filled in.

        Args:
            defaults: source of the missing values.
        """
        names = [field.name for field in fields(GeneratorSettings)]
        return GeneratorSettings(
            **{n: getattr(defaults, n) if getattr(self, n) is None else getattr(self, n) for n in names}
        )

    @property
    def numbers(self) -> GeneratorNumbers:
        """The numbers: all settings but the network.

        Raises:
            ValueError: if one is ``None``.
        """
        found = self.width, self.latent_size, self.lr, self.betas
        if None in found:
            raise ValueError(f"published: expected width, latent_size, lr and betas of the generator, got {found}")
        return GeneratorNumbers(*cast(GeneratorNumbers, found))


def complete(given: object, published: GeneratorSettings) -> GeneratorSettings:
    """Return complete settings for a method.

    Args:
        given: value given by the user.
        published: the method's defaults, which fill in missing values.

    Raises:
        TypeError: if no settings were given.
    """
    if not isinstance(given, GeneratorSettings):
        cure = "give GeneratorSettings(width=..., lr=...), a network of your own as GeneratorSettings(network=...)"
        raise TypeError(f"generator: expected GeneratorSettings, got {type(given).__name__}: {cure}")
    return given.over(published)


def with_published(arguments: Mapping[str, Any], published: GeneratorSettings) -> GeneratorSettings:
    """Return the generator settings in arguments, with missing values filled in from a published setting.

    Args:
        arguments: arguments of a method's constructor.
        published: generator settings of the published setting.
    """
    return complete(arguments.get("generator", GeneratorSettings()), published)


def make_generator(
    settings: GeneratorSettings, default: Callable[[], nn.Module], spec: TaskSpec, source: torch.Generator
) -> nn.Module:
    """Copy the given generator or create the method's default one, and check that it fits the task.

    Args:
        settings: settings, with the user's network if there is one.
        default: creates the method's default network.
        spec: shapes of the task.
        source: source of the initial values.
    """
    given = settings.network
    with seeded_initialization(source):
        generator = default() if given is None else copy.deepcopy(given)
    check_generator(generator, settings.numbers.latent_size, spec.image_shape)
    return generator


def check_output(output: GeneratorOutput) -> GeneratorOutput:
    """Return the kind of a generator's output.

    Args:
        output: ``normalized`` or ``sigmoid``.

    Raises:
        ValueError: if it is neither.
    """
    if output not in get_args(GeneratorOutput):
        raise ValueError(f"expected generator_output 'normalized' or 'sigmoid', got {output!r}")
    return output


def make_output(
    output: GeneratorOutput, spec: TaskSpec, settings: GeneratorSettings, *, bn_eps: float = 1e-5
) -> nn.Module:
    """Return a generator of normalised or bounded pixels; both kinds have the same widths.

    Args:
        output: ``normalized`` for :class:`~lightning_condkd.models.NormalizedGenerator` with tanh, ``sigmoid`` for
            :class:`~lightning_condkd.models.ConvGenerator`.
        spec: shapes of the task.
        settings: complete settings; the width is that of all stages but the last.
        bn_eps: eps of the inner BatchNorm layers of a ``normalized`` one.
    """
    width, latent_size, *_ = settings.numbers
    if output == "sigmoid":
        return ConvGenerator(spec.image_shape, latent_size=latent_size, width=max(width // 2, 1))
    shapes: dict[str, Any] = {"mean": spec.mean, "std": spec.std, "latent_size": latent_size, "width": width}
    return NormalizedGenerator(spec.image_shape, **shapes, bn_eps=bn_eps)
