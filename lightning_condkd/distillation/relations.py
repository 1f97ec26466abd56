"""Losses that compare the relations of the images of a batch; student and teacher may have any widths.

The batch is that of this rank. Labels are not used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.functional.relations import (
    probabilistic_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
)
from lightning_condkd.types import LossTerms, NetworkOutput


class SP(DistillationLoss):
    """Similarity-preserving distillation: differences of the Gram matrices of maps, summed over pairs of maps.

    Published on the last maps, with the weight 3000 and cross-entropy of weight 1. See
    :func:`~lightning_condkd.functional.relations.similarity_preserving`.

    Args:
        teacher_maps: names of the teacher's modules; ``None`` for the last of its
            :func:`~lightning_condkd.models.stages.stage_names`.
        student_maps: names of the student's modules, in the same order; ``None`` for the same names, or for its own
            last stage if the teacher's are not named.

    Raises:
        ValueError: if no module is named, or their numbers differ.

    Example:
        >>> output = NetworkOutput(torch.zeros(2, 3), maps=(torch.rand(2, 4, 8, 8),))
        >>> SP(["layer3"])(output, output)
        tensor(0.)

    References:
        Tung and Mori: "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682; the weight is that
        of the code of CRD and mdistiller.
    """

    compared_stages = slice(-1, None)

    def __init__(self, teacher_maps: Sequence[str] | None = None, student_maps: Sequence[str] | None = None) -> None:
        super().__init__()
        self.name_maps(teacher_maps, student_maps)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the sum over the pairs, see :class:`DistillationLoss`."""
        pairs = zip(student.maps, teacher.maps, strict=True)
        return torch.stack([similarity_preserving(s, t) for s, t in pairs]).sum()

    def extra_repr(self) -> str:
        """Return the names for ``print``."""
        return f"teacher_maps={self.teacher_maps}, student_maps={self.student_maps}"


class RKD(DistillationLoss):
    """Relational distillation: distances of all pairs and angles of all triplets of embeddings.

    Published weights of the terms in the benchmarks on CIFAR-100, with cross-entropy of weight 1.

    Args:
        distance_weight: weight of :func:`~lightning_condkd.functional.relations.relational_distance` (code of CRD and
            mdistiller: 25).
        angle_weight: weight of :func:`~lightning_condkd.functional.relations.relational_angle` (likewise 50).

    Raises:
        ValueError: if a weight is negative.

    Example:
        >>> output = NetworkOutput(torch.zeros(4, 3), embedding=torch.rand(4, 8))
        >>> RKD()(output, output)
        tensor(0.)

    References:
        Park et al.: "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068; its code.
    """

    needs_embedding = True

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        if not (distance_weight >= 0 and angle_weight >= 0):
            raise ValueError(f"expected weights >= 0 of distance and angle, got {distance_weight} and {angle_weight}")
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> LossTerms:
        """Return the two terms, see :class:`DistillationLoss`."""
        assert student.embedding is not None
        assert teacher.embedding is not None
        given = student.embedding, teacher.embedding
        return LossTerms(
            {"distance": lambda: relational_distance(*given), "angle": lambda: relational_angle(*given)},
            {"distance": self.distance_weight, "angle": self.angle_weight},
        )

    def extra_repr(self) -> str:
        """Return the weights for ``print``."""
        return f"distance_weight={self.distance_weight}, angle_weight={self.angle_weight}"


class PKT(DistillationLoss):
    """Probabilistic knowledge transfer: which images of the batch are similar, as a probability.

    Published with the weight 30000, which belongs to the mean over all N * N pairs, and cross-entropy of weight 1. See
    :func:`~lightning_condkd.functional.relations.probabilistic_transfer`.

    Example:
        >>> output = NetworkOutput(torch.zeros(4, 3), embedding=torch.rand(4, 8))
        >>> PKT()(output, output)
        tensor(0.)

    References:
        Passalis and Tefas: "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018, arXiv
        1803.10837; the weight is that of the code of CRD and mdistiller.
    """

    needs_embedding = True

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the mean over all pairs, see :class:`DistillationLoss`."""
        assert student.embedding is not None
        assert teacher.embedding is not None
        return probabilistic_transfer(student.embedding, teacher.embedding)
