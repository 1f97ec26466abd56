"""Losses on relations and embeddings, pair by pair, from the formulas of the papers and the quoted constants."""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for x, y in zip(a.flatten(), b.flatten(), strict=True):
        total = total + x * y
    return total


def length(a: Tensor) -> Tensor:
    return torch.sqrt(dot(a, a))


def smooth_l1(a: Tensor, b: Tensor) -> Tensor:
    """Huber's loss with threshold 1."""
    gap = torch.abs(a - b)
    return gap**2 / 2 if gap < 1 else gap - 0.5


def sp(student: Tensor, teacher: Tensor) -> Tensor:
    """arXiv 1907.09682: rows of the Gram matrices scaled to length 1, ||.||_F^2 / b^2."""
    count, total = len(student), torch.zeros((), dtype=torch.float64)
    for i in range(count):
        rows = [torch.stack([dot(features[i], other) for other in features]) for features in (student, teacher)]
        s, t = (row / length(row) for row in rows)
        for j in range(count):
            total = total + (t[j] - s[j]) ** 2
    return total / count**2


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """arXiv 1904.05068, equations 4 and 5: distances over their mean, mean over all B * B entries."""
    count = len(student)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    scaled = []
    for features in (student, teacher):
        distances = [length(features[i] - features[j]) for i, j in pairs]
        mu = sum(distances, torch.zeros(())) / len(pairs)
        scaled.append([d / mu for d in distances])
    losses = [smooth_l1(s, t) for s, t in zip(*scaled, strict=True)]
    return sum(losses, torch.zeros(())) / count**2


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Equations 6 and 7: cosines of the angles at i of all (j, k), mean over all B^3 entries."""
    count, total = len(student), torch.zeros((), dtype=torch.float64)
    for i in range(count):
        others = [j for j in range(count) if j != i]
        for j in others:
            for k in others:
                cosines = []
                for features in (student, teacher):
                    a, b = features[j] - features[i], features[k] - features[i]
                    cosines.append(dot(a / length(a), b / length(b)))
                total = total + smooth_l1(*cosines)
    return total / count**3


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """arXiv 1803.10837 with the constants of the code: mean over B^2 of t log((t + 1e-7) / (s + 1e-7))."""
    count, shares = len(student), []
    for features in (student, teacher):
        units = [row / (length(row) + 1e-7) for row in features]
        similar = [[(dot(a, b) + 1) / 2 for b in units] for a in units]
        shares.append([[entry / sum(row, torch.zeros(())) for entry in row] for row in similar])
    total = torch.zeros((), dtype=torch.float64)
    for s_row, t_row in zip(*shares, strict=True):
        for s, t in zip(s_row, t_row, strict=True):
            total = total + t * torch.log((t + 1e-7) / (s + 1e-7))
    return total / count**2


def norm_direction(student: Tensor, teacher: Tensor, means: Tensor, labels: Tensor) -> Tensor:
    """KD++, arXiv 2305.17007: 1 - <s, m / |m|> / max(|s|, |t|)."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t, y in zip(student, teacher, labels.tolist(), strict=True):
        unit = means[y] / length(means[y])
        total = total + 1 - dot(s, unit) / max(length(s), length(t))
    return total / len(student)


def vkd(student: Tensor, teacher: Tensor, projection: Tensor) -> Tensor:
    """V_kD, arXiv 2403.06213: smooth L1 of P s and the layer-normalized t (epsilon 1e-5), mean over all entries."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(student, teacher, strict=True):
        center = dot(t, torch.ones_like(t)) / len(t)
        deviation = torch.sqrt(dot(t - center, t - center) / len(t) + 1e-5)
        for row, value in zip(projection, t, strict=True):
            total = total + smooth_l1(dot(row, s), (value - center) / deviation)
    return total / teacher.numel()
