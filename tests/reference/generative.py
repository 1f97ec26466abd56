"""Terms of the generators without labels, sample by sample: arXiv 1904.01186 (DAFL), arXiv 1905.09768 (ZSKT)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.reference.kd import divergence, softmax


def activation(embedding: Tensor) -> Tensor:
    """- (1 / N D) sum_i sum_d |f_id|."""
    total = torch.zeros(())
    for row in embedding:
        for value in row:
            total = total - (value if value > 0 else -value)
    return total / (len(embedding) * len(embedding[0]))


def balance(logits: Tensor, base: float = math.e) -> Tensor:
    """sum_c q_c log q_c with q the mean of the predictions."""
    predictions = [softmax(row) for row in logits]
    total = torch.zeros(())
    for k in range(len(logits[0])):
        q = sum(p[k] for p in predictions) / len(predictions)
        total = total + q * torch.log(q) / math.log(base)
    return total


def negative_divergence(teacher: Tensor, student: Tensor, per_class: bool = False) -> Tensor:
    total = torch.zeros(())
    for t, s in zip(teacher, student, strict=True):
        total = total - divergence(softmax(t), softmax(s))
    return total / (len(teacher) * (len(teacher[0]) if per_class else 1))


def own_class(logits: Tensor) -> Tensor:
    """Cross entropy to the class that each row predicts."""
    total = torch.zeros(())
    for row in logits:
        values = row.tolist()
        total = total - torch.log(softmax(row)[values.index(max(values))])
    return total / len(logits)


def attention(maps: Tensor) -> list[Tensor]:
    """One image: sum over channels of squares, as a list of places, divided by its length."""
    channels, height, width = maps.shape
    places = [sum(maps[c, y, x] ** 2 for c in range(channels)) / channels for y in range(height) for x in range(width)]
    length = torch.sqrt(sum(p * p for p in places))
    return [p / length for p in places]


def attention_transfer(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    total = torch.zeros(())
    for s_maps, t_maps in zip(student, teacher, strict=True):
        block, places = torch.zeros(()), 0
        for s, t in zip(s_maps, t_maps, strict=True):
            for a, b in zip(attention(s), attention(t), strict=True):
                block, places = block + (a - b) ** 2, places + 1
        total = total + block / places
    return total
