"""Losses on logits, sample by sample and class by class, from the formulas of the papers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tests.reference.kd import divergence, softmax


def mean(values: Sequence[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for value in values:
        total = total + value
    return total / len(values)


def standardized(logits: Tensor) -> list[Tensor]:
    """LSKD, arXiv 2403.01427: (z - mean) / (std + 1e-7) for every sample, unbiased as in the code."""
    rows = []
    for z in logits:
        center = mean(list(z))
        variance = mean([(v - center) ** 2 for v in z]) * len(z) / (len(z) - 1)
        rows.append(torch.stack([(v - center) / (torch.sqrt(variance) + 1e-7) for v in z]))
    return rows


def perception(logits: Tensor) -> Tensor:
    """LumiNet, arXiv 2310.03669: (z - mean) / sqrt(var + 1e-5) for every class over the batch, biased variance."""
    columns = []
    for column in logits.T:
        center = mean(list(column))
        variance = mean([(v - center) ** 2 for v in column])
        columns.append(torch.stack([(v - center) / torch.sqrt(variance + 1e-5) for v in column]))
    return torch.stack(columns, dim=1)


def luminet(student: Tensor, teacher: Tensor, alpha: float, temperature: float) -> Tensor:
    pairs = zip(perception(student), perception(teacher), strict=True)
    return alpha**2 * mean([divergence(softmax(t, temperature), softmax(s, temperature)) for s, t in pairs])


def target_term(student: Tensor, teacher: Tensor, label: int, temperature: float) -> Tensor:
    """DKD, arXiv 2203.08679, equation 5: KL of the probabilities of the target and of all others, for one sample."""
    p_t, p_s = softmax(teacher, temperature), softmax(student, temperature)
    return divergence([p_t[label], 1 - p_t[label]], [p_s[label], 1 - p_s[label]])


def non_target_term(student: Tensor, teacher: Tensor, label: int, temperature: float) -> Tensor:
    """KL of the predictions among the other classes, for one sample."""
    others = [k for k in range(len(student)) if k != label]
    return divergence(softmax(teacher[others], temperature), softmax(student[others], temperature))


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    terms = []
    for s, t, y in zip(student, teacher, labels.tolist(), strict=True):
        terms.append(
            alpha * target_term(s, t, y, temperature) + beta * non_target_term(s, t, y, temperature),
        )
    return temperature**2 * mean(terms)


def pearson(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    a_center, b_center = mean(a), mean(b)
    covariance = sum(((x - a_center) * (y - b_center) for x, y in zip(a, b, strict=True)), torch.zeros(()))
    norms = [torch.sqrt(sum(((x - c) ** 2 for x in v), torch.zeros(()))) for v, c in ((a, a_center), (b, b_center))]
    return covariance / (norms[0] * norms[1] + 1e-8)


def dist(student: Tensor, teacher: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    """DIST, arXiv 2205.10536, equations 8 to 10, with T^2 and 1e-8 as in the code."""
    p_s, p_t = ([softmax(z, temperature) for z in logits] for logits in (student, teacher))
    inter = mean([1 - pearson(s, t) for s, t in zip(p_s, p_t, strict=True)])
    columns = [([row[k] for row in p_s], [row[k] for row in p_t]) for k in range(student.shape[1])]
    intra = mean([1 - pearson(s, t) for s, t in columns])
    return temperature**2 * (beta * inter + gamma * intra)


def ofa(student: Tensor, teacher: Tensor, labels: Tensor, gamma: float, temperature: float) -> Tensor:
    """OFA-KD, arXiv 2310.19444: -sum_c ((p_t + [c = y])^gamma - [c = y]) log p_s."""
    losses = []
    for s, t, y in zip(student, teacher, labels.tolist(), strict=True):
        p_s, p_t = softmax(s, temperature), softmax(t, temperature)
        terms = [((p_t[c] + int(c == y)) ** gamma - int(c == y)) * torch.log(p_s[c]) for c in range(len(s))]
        losses.append(-sum(terms, torch.zeros(())))
    return mean(losses)


def gram_entries(rows: list[list[Tensor]]) -> list[list[Tensor]]:
    return [[sum((x * y for x, y in zip(a, b, strict=True)), torch.zeros(())) for b in rows] for a in rows]


def gram_term(student: list[list[Tensor]], teacher: list[list[Tensor]], kept: Sequence[bool]) -> Tensor:
    g_s, g_t = gram_entries(student), gram_entries(teacher)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(student)):
        for j in range(len(student)):
            total = total + (g_t[i][j] - g_s[i][j]) ** 2 * kept[j]
    return total / len(student)


def batch_term(student: Tensor, teacher: Tensor, temperature: float, kept: Sequence[bool]) -> Tensor:
    """MLKD: ||P_t P_t' - P_s P_s'||_F^2 / B."""
    p_s, p_t = ([softmax(z, temperature) for z in logits] for logits in (student, teacher))
    return gram_term(p_s, p_t, kept)


def class_term(student: Tensor, teacher: Tensor, temperature: float, kept: Sequence[bool]) -> Tensor:
    """MLKD: ||P_t' P_t - P_s' P_s||_F^2 / C."""
    p_s, p_t = ([softmax(z, temperature) for z in logits] for logits in (student, teacher))
    columns = [[[row[k] for row in p] for k in range(student.shape[1])] for p in (p_s, p_t)]
    return gram_term(columns[0], columns[1], kept)


def instance_term(student: Tensor, teacher: Tensor, temperature: float, kept: Sequence[bool]) -> Tensor:
    terms = []
    for s, t, keep in zip(student, teacher, kept, strict=True):
        terms.append(divergence(softmax(t, temperature), softmax(s, temperature)) * keep)
    return temperature**2 * mean(terms)


def median_mask(values: Sequence[float]) -> list[bool]:
    """At or below the median, which is the mean of the middle two of an even number."""
    ordered = sorted(values)
    middle = (len(ordered) - 1) / 2
    median = (ordered[math.floor(middle)] + ordered[math.ceil(middle)]) / 2
    return [value <= median for value in values]


def confidence_masks(teacher: Tensor) -> tuple[list[bool], list[bool]]:
    predictions = [[float(p) for p in softmax(z)] for z in teacher.detach()]
    sums = [sum(row[k] for row in predictions) for k in range(teacher.shape[1])]
    return median_mask([max(row) for row in predictions]), median_mask(sums)
