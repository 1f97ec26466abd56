"""Contrastive representation distillation (arXiv 1910.10699) image by image, with a memory that starts empty."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def unit(values: Tensor) -> Tensor:
    return values / torch.sqrt(sum(v * v for v in values))


class Contrast:
    """Both memories as dictionaries from slots to unit vectors."""

    def __init__(self, slots: int, negatives: int, temperature: float, momentum: float) -> None:
        self.slots, self.negatives, self.temperature, self.momentum = slots, negatives, temperature, momentum
        self.student: dict[int, Tensor] = {}
        self.teacher: dict[int, Tensor] = {}
        self.classes: dict[int, int] = {}
        self.constants: list[float] | None = None

    def enter(self, slots: Sequence[int], classes: Sequence[int], student: Tensor, teacher: Tensor) -> None:
        for slot, label, s, t in zip(slots, classes, student.detach(), teacher.detach(), strict=True):
            if self.classes.get(slot) != label:
                self.classes[slot], self.student[slot], self.teacher[slot] = label, s, t

    def update(self, slots: Sequence[int], student: Tensor, teacher: Tensor) -> None:
        for slot, s, t in zip(slots, student.detach(), teacher.detach(), strict=True):
            for memory, new in ((self.student, s), (self.teacher, t)):
                memory[slot] = unit(self.momentum * memory[slot] + (1 - self.momentum) * new)

    def negative_slots(self, slot: int, uniform: Sequence[float]) -> list[int]:
        """Slots of other classes by class, then by number; each draw takes an equal share of the list."""
        ordered = sorted(self.classes, key=lambda one: (self.classes[one], one))
        others = [one for one in ordered if self.classes[one] != self.classes[slot]]
        others = others or [one for one in ordered if one != slot]
        return [others[math.floor(u * len(others))] for u in uniform]

    def loss(self, slots: Sequence[int], student: Tensor, teacher: Tensor, uniform: Tensor) -> Tensor:
        drawn = [self.negative_slots(slot, row.tolist()) for slot, row in zip(slots, uniform, strict=True)]
        sides = ((student, self.teacher), (teacher, self.student))
        exponentials = [
            [
                [torch.exp((v @ memory[one]) / self.temperature) for one in [slot, *negatives]]
                for v, slot, negatives in zip(vectors, slots, drawn, strict=True)
            ]
            for vectors, memory in sides
        ]
        if self.constants is None:
            self.constants = [
                self.slots * sum(value.item() for row in side for value in row) / sum(len(row) for row in side)
                for side in exponentials
            ]
        total, noise = torch.zeros(()), self.negatives / self.slots
        for side, constant in zip(exponentials, self.constants, strict=True):
            for positive, *negatives in side:
                h = (positive / constant) / (positive / constant + noise)
                total = total - torch.log(h)
                for value in negatives:
                    total = total - torch.log(1 - (value / constant) / (value / constant + noise))
        return total / len(slots)
