"""Adversarial losses, sample by sample: arXiv 1406.2661, non-saturating generator; hinge from arXiv 1705.02894."""

from __future__ import annotations

import torch
from torch import Tensor


def probability(logit: Tensor) -> Tensor:
    """D = 1 / (1 + exp(-logit))."""
    return 1 / (1 + torch.exp(-logit))


def mean(values: list[Tensor]) -> Tensor:
    return sum(values, torch.zeros(())) / len(values)


def discriminator_bce(real: Tensor, synthetic: Tensor) -> Tensor:
    """Ascend log D(x) + log(1 - D(G(z))), written as a descent."""
    return -mean([torch.log(probability(x)) for x in real]) - mean([torch.log(1 - probability(x)) for x in synthetic])


def generator_bce(synthetic: Tensor) -> Tensor:
    """Ascend log D(G(z)), written as a descent."""
    return -mean([torch.log(probability(x)) for x in synthetic])


def discriminator_hinge(real: Tensor, synthetic: Tensor) -> Tensor:
    zero = torch.zeros(())
    on_real = mean([1 - x if x < 1 else zero for x in real])
    return on_real + mean([1 + x if x > -1 else zero for x in synthetic])


def generator_hinge(synthetic: Tensor) -> Tensor:
    return -mean(list(synthetic))
