"""Memory of the embeddings of both networks, one row for each image of the run, the same on every rank."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.distributed import gather_rows, world_size


class Entries(NamedTuple):
    """Embeddings of the global batch, without gradient.

    Args:
        slots: number of each image, ``(N,)`` int64.
        classes: class of each image, ``(N,)`` int64, not negative.
        student: unit vectors of the student, ``(N, P)``.
        teacher: unit vectors of the teacher, ``(N, P)``.
    """

    slots: Tensor
    classes: Tensor
    student: Tensor
    teacher: Tensor


class ContrastMemory(nn.Module):
    """Running means of unit embeddings of student and teacher, by image.

    A row is empty, with class -1, until its image is seen. It starts anew where the class is another than before: a
    bank of limited capacity gives the numbers of replaced images to new ones.

    Args:
        slots: number of rows.
        size: length P of an embedding.
        momentum: share of the old row in a new one, in [0, 1).

    Example:
        >>> memory = ContrastMemory(3, 2, momentum=0.5)
        >>> entries = Entries(torch.tensor([2]), torch.tensor([0]), torch.eye(2)[:1], torch.eye(2)[1:])
        >>> memory.update(entries)
        >>> memory.classes, memory.student[2]
        (tensor([-1, -1,  0]), tensor([1., 0.]))
    """

    student: Tensor
    teacher: Tensor
    classes: Tensor

    def __init__(self, slots: int, size: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("student", torch.zeros(slots, size))
        self.register_buffer("teacher", torch.zeros(slots, size))
        self.register_buffer("classes", torch.full((slots,), -1))

    def entered(self, entries: Entries) -> Entries:
        """Return slots, classes and rows of the whole memory once images not seen before are in it.

        Args:
            entries: the global batch; of an image that it holds twice, the first counts.
        """
        entries = _without_repeats(entries, len(self.classes))
        slots, student, teacher = entries.slots, *self._rows(entries)
        return Entries(
            torch.arange(len(self.classes), device=slots.device),
            self.classes.index_copy(0, slots, entries.classes),
            self.student.index_copy(0, slots, student.to(self.student)),
            self.teacher.index_copy(0, slots, teacher.to(self.teacher)),
        )

    @torch.no_grad()
    def update(self, entries: Entries) -> None:
        """Move the rows of a batch towards its embeddings.

        Args:
            entries: the global batch; of an image that it holds twice, the first counts.
        """
        entries = _without_repeats(entries, len(self.classes))
        pairs = zip((self.student, self.teacher), self._rows(entries), (entries.student, entries.teacher), strict=True)
        for memory, old, new in pairs:
            mixed = F.normalize(self.momentum * old + (1 - self.momentum) * new, dim=1)
            memory.index_copy_(0, entries.slots, mixed.to(memory))
        self.classes.index_copy_(0, entries.slots, entries.classes)

    def _rows(self, entries: Entries) -> tuple[Tensor, Tensor]:
        """Return the rows of a batch; those of new images, or with another class than before, are their embeddings."""
        new = (self.classes[entries.slots] != entries.classes)[:, None]
        student = torch.where(new, entries.student, self.student[entries.slots].to(entries.student))
        teacher = torch.where(new, entries.teacher, self.teacher[entries.slots].to(entries.teacher))
        return student, teacher


def gather_entries(local: Entries) -> tuple[Entries, int]:
    """Return the global batch and the largest number of images on a rank; ranks may hold different numbers.

    Args:
        local: the images of this rank.
    """
    if world_size() == 1:
        return Entries(*(values.detach() for values in local)), len(local.slots)
    counts = gather_rows(torch.tensor([len(local.slots)], device=local.slots.device))
    most = int(counts.max())
    there = (torch.arange(most, device=counts.device)[:, None] < counts).flatten()
    return Entries(*(gather_rows(_padded(values, most))[there] for values in local)), most


def _padded(rows: Tensor, count: int) -> Tensor:
    return torch.cat([rows.detach(), rows.new_zeros(count - len(rows), *rows.shape[1:])])


def _without_repeats(entries: Entries, slots: int) -> Entries:
    """Give all entries of an image the values of its first, so that the order of writing does not matter."""
    order = torch.arange(len(entries.slots), device=entries.slots.device)
    first = order.new_full((slots,), len(order)).scatter_reduce_(0, entries.slots, order, "amin")[entries.slots]
    return Entries(entries.slots, *(values[first] for values in entries[1:]))
