"""Losses on feature maps built for toy networks in float64, and the outputs that they compare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_condkd.distillation import DistillationLoss, LossContext
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.types import NetworkOutput
from tests.helpers import toy

FIRST, MIDDLE, LAST = "features.2", "features.5", "features.8"  # maps (4, 8, 8), (4, 4, 4) and (8, 4, 4) of width 4
Loss = TypeVar("Loss", bound=DistillationLoss)


class Pair(NamedTuple):
    """A frozen teacher, a narrower student and images."""

    teacher: Observer
    student: Observer
    images: Tensor

    def build(self, loss: Loss, slots: int = 0) -> Loss:
        loss.build(self.teacher, self.student, toy.SHAPE, slots=slots)
        return loss.double()

    def outputs(self, loss: DistillationLoss) -> tuple[NetworkOutput, NetworkOutput]:
        """What the loss declares, the student's with a graph; the teacher's too if the loss needs that."""
        asked = {"embedding": loss.needs_embedding}
        images = self.images.detach().requires_grad_(loss.needs_teacher_graph)
        with torch.set_grad_enabled(loss.needs_teacher_graph):
            teacher = self.teacher(images, **asked, maps=loss.teacher_maps)
        return self.student(self.images, **asked, maps=loss.student_maps), teacher

    def context(self, **changes: Any) -> LossContext:
        return LossContext(student_head=self.student.head(), draw=Draw(0, 3))._replace(**changes)


def pair(count: int = 6, teacher_width: int = 4, student_width: int = 3) -> Pair:
    teacher = toy.observed(toy.network("teacher", width=teacher_width)).double().freeze()
    student = toy.observed(toy.network("student", width=student_width)).double()
    images = torch.rand(count, *toy.SHAPE, generator=seeded_generator(0, "images"), dtype=torch.float64)
    return Pair(teacher, student, images)


def trained(student: Observer, loss: DistillationLoss) -> Iterator[tuple[str, Tensor]]:
    """Parameters that the student's step trains, by name."""
    own = {id(one) for group in loss.parameter_groups() for one in group["params"]}
    yield from (("student " + name, one) for name, one in student.named_parameters())
    yield from (("loss " + name, one) for name, one in loss.named_parameters() if id(one) in own)


def without_gradient(student: Observer, loss: DistillationLoss) -> set[str]:
    """Names of what is trained but has no gradient, or one of zeros."""
    return {name for name, one in trained(student, loss) if one.grad is None or not one.grad.abs().sum() > 0}
