"""Base class of losses that are composed of other losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import NEEDS
from lightning_condkd.models import Observer


class ComposedLoss(DistillationLoss):
    """Base of losses that hold other losses, which are built and trained with them.

    A subclass stores them as submodules, calls :meth:`adopt_needs` at the end of its constructor, and writes
    :meth:`forward`, which calls ``loss.terms(student, teacher, labels, self.context)``.
    """

    def inner_losses(self) -> list[DistillationLoss]:
        """Return the losses among the direct children."""
        return [child for child in self.children() if isinstance(child, DistillationLoss)]

    def adopt_needs(self) -> None:
        """Declare what the inner losses need; the constructor calls it last.

        Maps are those of all inner losses one after another.

        Raises:
            ValueError: if inner losses have different second views.
        """
        inner = self.inner_losses()
        for need in NEEDS:
            setattr(self, need, any(getattr(loss, need) for loss in inner))
        self.accepts_soft_labels = all(loss.accepts_soft_labels for loss in inner if loss.needs_labels)
        views = [loss.second_view for loss in inner if loss.second_view is not None]
        if len({str(view) for view in views}) > 1:
            raise ValueError(f"{type(self).__name__}: expected one second view for all losses, got {views}")
        self.second_view = views[0] if views else None
        self.teacher_maps = tuple(name for loss in inner for name in loss.teacher_maps)
        self.student_maps = tuple(name for loss in inner for name in loss.student_maps)

    def resolve_maps(self, teacher: Observer, student: Observer) -> None:
        """Set the names of maps of all losses.

        Args:
            teacher: the teacher.
            student: the student.
        """
        for loss in self.inner_losses():
            loss.resolve_maps(teacher, student)
        self.adopt_needs()

    def after_build(self) -> None:
        """Adopt the needs again, since some are known only now."""
        self.adopt_needs()

    def must_be_built(self) -> bool:
        """Return whether one of the losses has to be built before its first step."""
        return any(loss.must_be_built() for loss in self.inner_losses())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of all losses."""
        return [group for loss in self.inner_losses() for group in loss.parameter_groups()]

    def changes_prediction(self) -> bool:
        """Return whether one of the losses changes how the student predicts."""
        return any(loss.changes_prediction() for loss in self.inner_losses())

    def predictor(self, student: Observer) -> Observer:
        """Return that of the loss which changes how the student predicts, else the student.

        Args:
            student: the student.
        """
        changing = [loss for loss in self.inner_losses() if loss.changes_prediction()]
        return changing[0].predictor(student) if changing else student

    def other_predictors(self, student: Observer) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Return those of all losses.

        Args:
            student: the student.
        """
        return {name: how for loss in self.inner_losses() for name, how in loss.other_predictors(student).items()}
