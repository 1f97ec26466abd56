"""What a loss is given: shapes when it is built, facts of a step, and the outputs that it asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor

from lightning_condkd.models.heads import ClassifierHead
from lightning_condkd.randomness import Draw
from lightning_condkd.subclassing import RequestedOutput
from lightning_condkd.types import NetworkOutput

NEEDS = (
    "needs_embedding",
    "needs_labels",
    "needs_teacher_head",
    "needs_student_head",
    "needs_class_means",
    "needs_slots",
    "needs_progress",
    "needs_teacher_graph",
    "needs_draw",
)


class NetworkShapes(NamedTuple):
    """Shapes of the outputs of a network that a loss compares, without the batch.

    Args:
        embedding_size: width D of the penultimate embedding; 0 unless the loss needs it.
        maps: shapes of the outputs of the named modules, ``(C, H, W)`` for a convolution.
    """

    embedding_size: int
    maps: tuple[tuple[int, ...], ...]


class LossSpec(NamedTuple):
    """Facts of the task that a loss needs to size its parameters.

    Args:
        image_shape: ``(C, H, W)`` in pixels.
        num_classes: number of classes K.
        teacher: shapes of the teacher's outputs.
        student: shapes of the student's outputs.
        slots: number of different images in the run, see :attr:`LossContext.slots`; 0 if the loss does not need them.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    teacher: NetworkShapes
    student: NetworkShapes
    slots: int = 0


class LossContext(NamedTuple):
    """Facts of a step besides the outputs on its images; the defaults suit a loss that needs none of them.

    Args:
        progress: share of the student's steps in the run that are done, in [0, 1].
        slots: number of each image among all of the run, ``(N,)`` int64: the same image has the same number in every
            step. Given if the loss has ``needs_slots``.
        second: outputs of student and teacher on the second view. Given if the loss has a ``second_view``.
        student_head: the student's final layer, with its ``weight``. Given if the loss has
            ``needs_student_head``.
        draw: randomness of the step. Needed in train mode if the loss has ``needs_draw``.
    """

    progress: float = 1.0
    slots: Tensor | None = None
    second: tuple[NetworkOutput, NetworkOutput] | None = None
    student_head: ClassifierHead | None = None
    draw: Draw | None = None

    def select(self, rows: Tensor) -> LossContext:
        """Return the context of a subset of the batch.

        Args:
            rows: index or boolean mask over the batch, ``(N,)``.
        """
        slots = None if self.slots is None else self.slots[rows]
        second = None if self.second is None else (self.second[0].select(rows), self.second[1].select(rows))
        return self._replace(slots=slots, second=second)


class LossInput(RequestedOutput):
    """Output of student or teacher that gives access only to values declared by the loss."""

    __slots__ = ()
    cures: ClassVar[Mapping[str, str]] = {
        "embedding": "set needs_embedding = True in the loss; in a bare loop call the networks with embedding=True",
        "maps": "set teacher_maps and student_maps in the loss; in a bare loop call the networks with maps=[...]",
        "bn": "a distillation loss is given logits, embedding and maps",
        "channel_means": "a distillation loss is given logits, embedding and maps",
    }
