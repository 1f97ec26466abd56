"""Latent CutMix: boxes of noisy latents pasted between images of one class during denoising."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Beta

from lightning_condkd.functional.cutmix import rounded_box
from lightning_condkd.inversion.parts.pixel_optimizer import check_choice
from lightning_condkd.randomness import seeded_initialization

Law = Literal["uniform", "nested"]


@dataclass(frozen=True)
class LatentCutMix:
    """CutMix of noisy latents within a class, a few times on the way.

    The whole batch has one box, and each image gets that of a random image of its class, which may be itself. With T
    steps it is applied after every ``T // 5`` of them, never after the last: four times for T = 50. Later denoising
    repairs the seams.

    Args:
        law: law of the kept share of the area: ``uniform`` is Beta(1, 1); ``nested`` is Beta(a, a) with a from
            Beta(1, 1), as in the official code.

    Raises:
        ValueError: if the law is unknown.
    """

    law: Law = "uniform"

    def __post_init__(self) -> None:
        check_choice("law", self.law, Law)

    def due(self, step: int, steps: int) -> bool:
        """Return whether the latents are mixed in a step.

        Args:
            step: number of the step, from 0.
            steps: number T of steps.

        Example:
            >>> [step + 1 for step in range(50) if LatentCutMix().due(step, 50)]
            [10, 20, 30, 40]
        """
        return is_fifth(step, steps)

    def __call__(self, latents: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the latents with the box of a partner.

        Args:
            latents: those of the global batch, ``(N, C, h, w)``.
            labels: their classes, ``(N,)``.
            generator: source of the box and of the partners.
        """
        height, width = latents.shape[2:]
        box = rounded_box(1 - self._kept(generator), _center(generator), (height, width))
        top, left, bottom, right = box
        partners = partners_in_class(labels.cpu(), generator).to(latents.device)
        mixed = latents.clone()
        mixed[:, :, top:bottom, left:right] = latents[partners][:, :, top:bottom, left:right]
        return mixed

    def _kept(self, generator: torch.Generator) -> float:
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        if self.law == "uniform":
            return share
        with seeded_initialization(generator):  # torch draws from Beta distributions with the global generator alone
            share = max(share, 1e-6)
            return float(Beta(torch.tensor(share).double(), torch.tensor(share).double()).sample())


def is_fifth(step: int, steps: int) -> bool:
    """Return whether a fifth of the steps, or a multiple of it, is done after a step that is not the last.

    Args:
        step: number of the step, from 0.
        steps: number T of steps, at least 5.

    Example:
        >>> [step for step in range(12) if is_fifth(step, 12)]
        [1, 3, 5, 7, 9]
    """
    return (step + 1) % (steps // 5) == 0 and step + 1 < steps


def _center(generator: torch.Generator) -> tuple[float, float]:
    row, column = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return row, column


def partners_in_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random permutation of a batch that maps every image to one of its class, ``(N,)`` int64.

    Args:
        labels: classes, ``(N,)``.
        generator: source of the permutation.
    """
    order = labels.argsort(stable=True)
    shuffled = torch.randperm(len(labels), generator=generator)
    partners = torch.empty_like(order)
    partners[order] = shuffled[labels[shuffled].argsort(stable=True)]
    return partners
