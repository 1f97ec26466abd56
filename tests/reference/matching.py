"""Distribution matching (arXiv 2110.04181, equation 5) and gradient matching (arXiv 2006.05929)."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_embedding_distance(
    real: Tensor, synthetic: Tensor, real_labels: Tensor, synthetic_labels: Tensor, num_classes: int
) -> Tensor:
    total = torch.zeros(())
    for c in range(num_classes):
        of_real = [row for row, label in zip(real, real_labels.tolist(), strict=True) if label == c]
        of_synthetic = [row for row, label in zip(synthetic, synthetic_labels.tolist(), strict=True) if label == c]
        for d in range(real.shape[1]):
            real_mean = sum((row[d] for row in of_real), torch.zeros(())) / len(of_real)
            synthetic_mean = sum((row[d] for row in of_synthetic), torch.zeros(())) / len(of_synthetic)
            total = total + (real_mean - synthetic_mean) ** 2
    return total


def gradient_distance(real: list[Tensor], synthetic: list[Tensor], kind: str) -> Tensor:
    """The published loops over layers and output units; ``mse`` and ``cosine`` over all numbers in a row."""
    if kind == "layerwise":
        total = torch.zeros((), dtype=real[0].dtype)
        for of_real, of_synthetic in zip(real, synthetic, strict=True):
            if of_real.dim() == 1:
                continue
            for unit in range(of_real.shape[0]):
                total = total + one_minus_cosine(of_real[unit].reshape(-1), of_synthetic[unit].reshape(-1))
        return total
    a, b = (torch.cat([gradient.reshape(-1) for gradient in side]) for side in (real, synthetic))
    if kind == "cosine":
        return one_minus_cosine(a, b)
    return torch.stack([(x - y) ** 2 for x, y in zip(a, b, strict=True)]).sum()


def one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    product, of_a, of_b = a.new_zeros(()), a.new_zeros(()), a.new_zeros(())
    for x, y in zip(a, b, strict=True):
        product, of_a, of_b = product + x * y, of_a + x * x, of_b + y * y
    return 1 - product / (of_a.sqrt() * of_b.sqrt() + 1e-6)
