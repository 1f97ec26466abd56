"""Multi-level logit distillation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_condkd.augment import Augment, DifferentiableAugment
from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.functional.divergence import check_temperature
from lightning_condkd.functional.multi_level import (
    batch_gram_distance,
    class_gram_distance,
    instance_divergence,
    low_confidence,
)
from lightning_condkd.types import LossTerms, NetworkOutput

Masks = Literal["share", "select", "none"]
Level = Callable[[Tensor, Tensor, float, Tensor | None], Tensor]


class MLKD(DistillationLoss):
    """Multi-level logit distillation: predictions at several temperatures, their correlation over classes and batch.

    The terms are :func:`~lightning_condkd.functional.multi_level.instance_divergence` on both views of the images, and
    :func:`~lightning_condkd.functional.multi_level.class_gram_distance` and
    :func:`~lightning_condkd.functional.multi_level.batch_gram_distance` on the first, all summed over the temperatures.
    Labels are not used. The batch is that of this rank.

    Published with the weight 0.9 and cross-entropy of weight 0.1 on each of the two views (ImageNet: 0.5 and 0.5).

    The official code has masks of the samples and classes that the teacher is less sure of than of the median. But it
    multiplies them with means that were taken before, which only scales the terms of the first view by the share that
    is kept, about a half. ``share`` does the same, ``select`` keeps the terms of the masked samples and classes alone.
    On the second view, the code computes relations too but does not add them, and at the temperatures 2 and 6 it
    compares the first view again by mistake. This class compares the second view at all temperatures.

    Args:
        temperatures: divisors of both logits, positive (official code 2 to 6; on ImageNet 1, 2, 3, 5, 6).
        second_view: augmentation of the second view, which is published as a crop and flip, two operators of
            RandAugment and a cutout of up to half of the side; ``None`` for color, flip, translation and cutout of
            :class:`~lightning_condkd.augment.DifferentiableAugment`, our default.
        masks: ``share``, ``select`` or ``none`` (see above).
        second_view_relations: whether the relations of the second view are added, without masks (official code: no).

    Raises:
        ValueError: if there is no temperature or one is not positive, or the name of the masks is unknown.

    Example:
        >>> from lightning_condkd.distillation import LossContext
        >>> student, teacher = NetworkOutput(torch.tensor([[2.0, 0.0]])), NetworkOutput(torch.tensor([[0.0, 2.0]]))
        >>> terms = MLKD().terms(student, teacher, context=LossContext(second=(student, teacher)))
        >>> {name: round(value.item(), 2) for name, value in terms.values.items()}
        {'instance': 19.38, 'class_relation': 0.22, 'batch_relation': 0.0}

    References:
        Jin, Wang, Lin: "Multi-Level Logit Distillation", CVPR 2023; its code.
    """

    def __init__(
        self,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        second_view: Augment | None = None,
        *,
        masks: Masks = "share",
        second_view_relations: bool = False,
    ) -> None:
        super().__init__()
        if not temperatures:
            raise ValueError("temperatures: expected one or more, got none; the official code has 2, 3, 4, 5 and 6")
        for temperature in temperatures:
            check_temperature(temperature)
        if masks not in get_args(Masks):
            raise ValueError(f"masks: expected one of {', '.join(get_args(Masks))}, got {masks!r}")
        default = DifferentiableAugment(("color", "flip", "translation", "cutout"))
        self.second_view = default if second_view is None else second_view
        self.temperatures, self.masks = tuple(temperatures), masks
        self.second_view_relations = second_view_relations

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> LossTerms:
        """Return the terms of the three levels, see :class:`DistillationLoss`."""
        assert self.context.second is not None
        first, second = ((s.logits, t.logits) for s, t in ((student, teacher), self.context.second))
        samples, classes = (None, None) if self.masks == "none" else low_confidence(teacher.logits)
        terms = {
            "instance": self._level(instance_divergence, first, samples) + self._level(instance_divergence, second),
            "class_relation": self._level(class_gram_distance, first, classes),
            "batch_relation": self._level(batch_gram_distance, first, samples),
        }
        if self.second_view_relations:
            terms["class_relation"] = terms["class_relation"] + self._level(class_gram_distance, second)
            terms["batch_relation"] = terms["batch_relation"] + self._level(batch_gram_distance, second)
        return LossTerms(terms, dict.fromkeys(terms, 1.0))

    def _level(self, level: Level, logits: tuple[Tensor, Tensor], kept: Tensor | None = None) -> Tensor:
        selected = kept if self.masks == "select" else None
        total = torch.stack([level(*logits, temperature, selected) for temperature in self.temperatures]).sum()
        return total if kept is None or self.masks == "select" else total * kept.to(total.dtype).mean()

    def extra_repr(self) -> str:
        """Return the arguments for ``print``."""
        relations = f"second_view_relations={self.second_view_relations}"
        return f"temperatures={self.temperatures}, masks={self.masks}, {relations}"
