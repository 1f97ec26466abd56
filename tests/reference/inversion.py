"""Terms of model inversion, layer by layer and sample by sample: arXiv 1912.08795 (BN), arXiv 2105.08584 (adv)."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.reference.kd import divergence, softmax


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    total = torch.zeros(())
    for row, label in zip(logits, labels.tolist(), strict=True):
        total = total - torch.log(softmax(row)[label])
    return total / len(logits)


def norm(difference: Tensor) -> Tensor:
    """The L2 norm of a vector, written out."""
    return torch.sqrt(sum((d * d for d in difference), torch.zeros(())))


def bn_distance(layers: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Tensor:
    """Each layer is (batch mean, batch variance, running mean, running variance)."""
    total = torch.zeros(())
    for mean, variance, running_mean, running_variance in layers:
        total = total + norm(mean - running_mean) + norm(variance - running_variance)
    return total


def adversarial_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    total = torch.zeros(())
    for t, s in zip(teacher, student, strict=True):
        t_values, s_values = t.tolist(), s.tolist()
        if t_values.index(max(t_values)) == s_values.index(max(s_values)):
            total = total - divergence(softmax(t), softmax(s))
    return total / len(teacher)
