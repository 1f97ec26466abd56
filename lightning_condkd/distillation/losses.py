"""Distillation losses as modules with one signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from lightning_condkd.functional.divergence import kd_divergence, logits_l1
from lightning_condkd.subclassing import FinalMethods, RequestedOutput
from lightning_condkd.types import NetworkOutput


class LossInput(RequestedOutput):
    """Output of student or teacher that gives access only to values declared by the loss."""

    __slots__ = ()
    cures: ClassVar[Mapping[str, str]] = {
        "embedding": "set needs_embedding = True in the loss; in a bare loop call the networks with embedding=True",
        "maps": "set teacher_maps and student_maps in the loss; in a bare loop call the networks with maps=[...]",
        "bn": "a distillation loss is given logits, embedding and maps",
        "channel_means": "a distillation loss is given logits, embedding and maps",
    }


class DistillationLoss(FinalMethods, nn.Module):
    """Base of the losses that compare student and teacher on the same batch.

    A subclass writes:

    - :meth:`forward`: the loss, a scalar;
    - ``needs_embedding``, ``teacher_maps``, ``student_maps``: the values that it uses in addition to the logits.

    The final ``loss(student, teacher, labels)`` of the base raises if an undeclared value is read, or if the result is
    no scalar or gives the student no gradient. Parameters of a loss would not be trained, so a fit refuses them;
    buffers and frozen parameters are allowed.

    Attributes:
        needs_embedding: whether both outputs must carry the penultimate embedding.
        teacher_maps: names of the teacher's modules whose outputs its record must carry.
        student_maps: names of the student's modules, likewise.

    Example:
        >>> class Squared(DistillationLoss):
        ...     def forward(self, student, teacher, labels=None):
        ...         return (student.logits - teacher.logits).square().mean()
        >>> Squared()(NetworkOutput(torch.zeros(1, 2)), NetworkOutput(torch.ones(1, 2)))
        tensor(1.)
    """

    finals: ClassVar[Mapping[str, str]] = {"__call__": "forward(student, teacher, labels)"}
    needs_embedding: bool = False
    teacher_maps: Sequence[str] = ()
    student_maps: Sequence[str] = ()

    @final  # type: ignore[misc]  # torch declares it as an attribute
    def __call__(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the loss of a batch, see :meth:`forward`.

        Args:
            student: output of the student, with a graph.
            teacher: output of the teacher on the same images.
            labels: classes, ``(N,)`` int64; ``None`` where unknown.

        Raises:
            ValueError: if the loss reads an undeclared value, or is no scalar that depends on the student.
        """
        loss = super().__call__(LossInput(*student), LossInput(*teacher), labels)
        name = f"{type(self).__name__}.forward"
        if not isinstance(loss, Tensor) or loss.dim():
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"{name}: expected a scalar tensor, got {got}; return the mean over the batch")
        if student.logits.requires_grad and torch.is_grad_enabled() and not loss.requires_grad:
            raise ValueError(
                f"{name}: no gradient of the loss reaches the student: compute it from student.logits, or from what "
                "else the loss declares, without detach, argmax or no_grad"
            )
        return loss

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the loss of a batch; a subclass implements this.

        Args:
            student: output of the student, with a graph.
            teacher: output of the teacher on the same images.
            labels: classes, ``(N,)`` int64; ``None`` where unknown.

        Returns:
            A scalar.
        """
        raise NotImplementedError(f"{type(self).__name__}.forward: a distillation loss must implement forward.")


class KLDistillation(DistillationLoss):
    """:func:`~lightning_condkd.functional.divergence.kd_divergence` of softened predictions; labels are not used.

    Args:
        temperature: divisor of both logits, positive; 20 is the value in the code of Fast and CMI.

    Raises:
        ValueError: if the temperature is not positive.

    Example:
        >>> import torch
        >>> KLDistillation(temperature=4.0)(NetworkOutput(torch.zeros(2, 3)), NetworkOutput(torch.ones(2, 3)))
        tensor(0.)
    """

    def __init__(self, temperature: float = 20.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(
                f"temperature: expected a positive number, got {temperature}; 1.0 leaves the logits unchanged."
            )
        self.temperature = temperature

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the batch mean, see :class:`DistillationLoss`."""
        return kd_divergence(student.logits, teacher.logits, self.temperature)

    def extra_repr(self) -> str:
        """Return the temperature for ``print``."""
        return f"temperature={self.temperature}"


class LogitsL1Distillation(DistillationLoss):
    """Mean absolute difference of the logits, the loss of PRE-DFKD; labels are not used.

    Example:
        >>> import torch
        >>> LogitsL1Distillation()(NetworkOutput(torch.zeros(2, 3)), NetworkOutput(torch.ones(2, 3)))
        tensor(1.)

    References:
        Binici et al.: "Robust and Resource-Efficient Data-Free Knowledge Distillation by Generative Pseudo Replay",
        arXiv 2201.03019.
    """

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the mean over samples and classes, see :class:`DistillationLoss`."""
        return logits_l1(student.logits, teacher.logits)
