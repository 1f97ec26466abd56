"""The terms that several methods share: class, BatchNorm statistics, disagreement with the student."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_condkd.functional.divergence import adversarial_divergence
from lightning_condkd.functional.inversion import bn_distance, class_loss
from lightning_condkd.types import BatchNormStatistics, NetworkOutput

Statistics = Sequence[BatchNormStatistics]


def teacher_terms(
    output: NetworkOutput,
    labels: Tensor | None,
    student_logits: Callable[[], Tensor],
    blend: Callable[[Statistics], Statistics] = lambda statistics: statistics,
) -> dict[str, Callable[[], Tensor]]:
    """Return the terms ``class``, ``bn`` and ``adversarial``, as functions, so that none is computed for nothing.

    Args:
        output: the teacher's output on the main view.
        labels: target classes, ``(N,)`` int64.
        student_logits: returns the student's logits on the same view.
        blend: what becomes of the batch statistics before they are compared.

    Raises:
        ValueError: in the first term, if there are no labels.
    """

    def classes() -> Tensor:
        if labels is None:
            raise ValueError("the class term needs labels: return them from render")
        return class_loss(output.logits, labels)

    return {
        "class": classes,
        "bn": lambda: bn_distance(blend(output.bn)),
        "adversarial": lambda: adversarial_divergence(output.logits, student_logits()),
    }
