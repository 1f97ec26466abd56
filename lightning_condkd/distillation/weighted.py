"""Weighted sums of losses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.composed import ComposedLoss
from lightning_condkd.types import LossTerms, NetworkOutput


class WeightedLosses(ComposedLoss):
    """Weighted sum of several losses, each with its name and weight.

    The names are those of the logged terms; terms of an inner loss that has several are called ``name/term``. A loss of
    weight 0 is not built, computed or logged.

    Args:
        losses: losses by name.
        weights: weight of each loss, by the same names; 1 for those that are left out.

    Raises:
        ValueError: if there is no loss, a weight has no loss or is negative, all weights are 0, two losses change how
            the student predicts, or two have different second views.

    Example:
        >>> import torch
        >>> from lightning_condkd.distillation import KLDistillation, LogitsL1Distillation
        >>> loss = WeightedLosses({"kd": KLDistillation(4.0), "l1": LogitsL1Distillation()}, {"kd": 0.9, "l1": 0.1})
        >>> loss(NetworkOutput(torch.zeros(2, 3)), NetworkOutput(torch.ones(2, 3)))
        tensor(0.1000)
    """

    def __init__(self, losses: Mapping[str, DistillationLoss], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        given = dict(weights or {})
        _check(losses, given)
        self.weights = {name: float(given.get(name, 1.0)) for name in losses}
        self.losses = nn.ModuleDict({name: loss for name, loss in losses.items() if self.weights[name]})
        self.adopt_needs()
        changing = [name for name, loss in self._named() if loss.changes_prediction()]
        if len(changing) > 1:
            raise ValueError(f"losses: each of {', '.join(changing)} changes how the student predicts: take one")

    def inner_losses(self) -> list[DistillationLoss]:
        """Return the losses of the sum."""
        return [loss for _, loss in self._named()]

    def _named(self) -> list[tuple[str, DistillationLoss]]:
        return [(name, loss) for name, loss in self.losses.items() if isinstance(loss, DistillationLoss)]

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> LossTerms:
        """Return the terms of all losses, see :class:`DistillationLoss`."""
        terms, student_maps, teacher_maps = LossTerms({}, {}), 0, 0
        for name, loss in self._named():
            rows = slice(student_maps, student_maps + len(loss.student_maps))
            others = slice(teacher_maps, teacher_maps + len(loss.teacher_maps))
            second = self.context.second if loss.second_view is not None else None
            if second is not None:
                second = _with_maps(second[0], rows), _with_maps(second[1], others)
            seen = teacher if loss.needs_teacher_graph == self.needs_teacher_graph else _constant(teacher)
            outputs, context = (_with_maps(student, rows), _with_maps(seen, others)), self.context
            found = loss.terms(*outputs, labels, context._replace(second=second))
            terms = terms.merge(_named_terms(name, self.weights[name], found))
            student_maps, teacher_maps = rows.stop, others.stop
        return terms

    def summary(self) -> str:
        """Return the sum with its weights in one line."""
        return " + ".join(f"{self.weights[name]:g} {name}: {loss.summary()}" for name, loss in self._named())

    def extra_repr(self) -> str:
        """Return the weights."""
        return f"weights={self.weights}"


def _check(losses: Mapping[str, DistillationLoss], weights: Mapping[str, float]) -> None:
    if not losses or not any(weights.get(name, 1.0) for name in losses):
        raise ValueError(f"expected losses with weights above 0, got losses {list(losses)} and weights {dict(weights)}")
    if unknown := [name for name in weights if name not in losses]:
        raise ValueError(f"weights: {', '.join(unknown)} name no loss; the losses are {', '.join(losses)}")
    if negative := [name for name, weight in weights.items() if not weight >= 0]:
        raise ValueError(f"weights: expected numbers from 0, got {', '.join(f'{n}={weights[n]}' for n in negative)}")
    if dotted := [name for name in losses if "." in name or "/" in name]:
        raise ValueError(f"losses: the name {dotted[0]!r} has a dot or a slash, which log and checkpoint cannot hold")


def _with_maps(output: NetworkOutput, which: slice) -> NetworkOutput:
    """Return an output with some of its maps; read by index, since a loss's input refuses names that are not there."""
    return NetworkOutput(output[0], output[1], output[2][which])


def _constant(output: NetworkOutput) -> NetworkOutput:
    """Return an output without graph; else the backward pass of every loss would run through the teacher."""
    embedding = None if output[1] is None else output[1].detach()
    return NetworkOutput(output[0].detach(), embedding, tuple(one.detach() for one in output[2]))


def _named_terms(name: str, weight: float, terms: LossTerms) -> LossTerms:
    names = {term: name if len(terms.values) == 1 else f"{name}/{term}" for term in terms.values}
    return LossTerms(
        {names[term]: value for term, value in terms.values.items()},
        {names[term]: weight * terms.weights[term] for term in terms.values},
    )
