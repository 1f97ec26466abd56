"""Distribution matching (arXiv 2110.04181, equation 5), class by class."""

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
