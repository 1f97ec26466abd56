"""Knowledge distillation (arXiv 1503.02531, equation 1 and section 2) and logit matching, sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax(logits: Tensor, temperature: float = 1.0) -> list[Tensor]:
    """q_k = exp(z_k / T) / sum_j exp(z_j / T), for one sample."""
    exponentials = [torch.exp(z / temperature) for z in logits]
    return [e / sum(exponentials) for e in exponentials]


def divergence(p: list[Tensor], q: list[Tensor]) -> Tensor:
    """KL(p || q) = sum_k p_k log(p_k / q_k), for one sample."""
    return sum((p_k * torch.log(p_k / q_k) for p_k, q_k in zip(p, q, strict=True)), torch.zeros(()))


def kd_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    total = torch.zeros(())
    for s, t in zip(student, teacher, strict=True):
        total = total + divergence(softmax(t, temperature), softmax(s, temperature))
    return temperature**2 * total / len(student)


def logits_l1(student: Tensor, teacher: Tensor) -> Tensor:
    total = torch.zeros(())
    for s, t in zip(student, teacher, strict=True):
        for s_k, t_k in zip(s, t, strict=True):
            total = total + (s_k - t_k if s_k > t_k else t_k - s_k)
    return total / (len(student) * len(student[0]))


def agreement(student: Tensor, teacher: Tensor) -> float:
    hits = 0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        hits += s.index(max(s)) == t.index(max(t))
    return hits / len(student)
