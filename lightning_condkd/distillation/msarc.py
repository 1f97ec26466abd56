"""Comparison of class activation maps and gradient-weighted maps of several layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.distillation.parts.head_input import check_width, last_maps
from lightning_condkd.distillation.parts.map_pairs import map_shapes
from lightning_condkd.functional.activation_maps import class_activation_maps, gradient_weighted_maps
from lightning_condkd.functional.feature_maps import map_error
from lightning_condkd.models.heads import ClassifierHead
from lightning_condkd.types import LossTerms, NetworkOutput


class MSARC(DistillationLoss):
    """Squared errors of the class activation maps of all classes, and of the gradient-weighted maps of earlier layers.

    The last named module gives the class activation maps, the others gradient-weighted ones, for the class that the
    teacher predicts, see :mod:`~lightning_condkd.functional.activation_maps`. Weights of the final layers and gradients
    count as constants, and the teacher's maps too; labels are not used. SpaceshipNet adds the divergence of the
    predictions at temperature 30, averaged over the classes, weight 1, and names ``layer1`` to ``layer4`` of ResNet-34
    and ResNet-18.

    Args:
        teacher_maps: names of the teacher's modules; the output of the last is what its final layer reads, averaged
            over space. ``None`` for its :func:`~lightning_condkd.models.stages.stage_names`.
        student_maps: names of the student's modules in the same order, with maps of the same heights and widths;
            ``None`` for the same names, or for its own stages if the teacher's are not named.
        cam_weight: weight of the class activation maps, 1 in SpaceshipNet.
        gradient_weight: weight of the gradient-weighted maps, 1 in SpaceshipNet; with 0 they are not computed.
        rectify: whether ReLU is applied to the last maps, which changes nothing in a map after its ReLU; ``False`` for
            networks whose last activation is another.

    Raises:
        ValueError: if the modules are not named in pairs, two at least with a gradient weight; at setup, if heights or
            widths of a pair differ, or the last map has not one channel for each input of the final layer; in the first
            step, if a final layer reads another map.

    Example:
        >>> from lightning_condkd.distillation import LossContext
        >>> from lightning_condkd.models import CifarResNet, Observer
        >>> teacher, student = Observer(CifarResNet(8, width=8)).freeze(), Observer(CifarResNet(8, width=4))
        >>> loss = MSARC(["layer1", "layer2", "layer3"]).build(teacher, student, image_shape=(3, 32, 32))
        >>> images, asked = torch.rand(2, 3, 32, 32, requires_grad=True), {"embedding": True, "maps": loss.teacher_maps}
        >>> context = LossContext(student_head=student.head())
        >>> sorted(loss.terms(student(images, **asked), teacher(images, **asked), context=context).values)
        ['cam', 'gradient']

    References:
        Yu et al.: "Data-Free Knowledge Distillation via Feature Exchange and Activation Region Constraint", CVPR 2023;
        the formulas are those of its code, SpaceshipNet.
    """

    needs_embedding = True  # to check that the final layers read the last maps
    needs_teacher_head = True
    needs_student_head = True

    def __init__(
        self,
        teacher_maps: Sequence[str] | None = None,
        student_maps: Sequence[str] | None = None,
        *,
        cam_weight: float = 1.0,
        gradient_weight: float = 1.0,
        rectify: bool = True,
    ) -> None:
        super().__init__()
        self.cam_weight, self.gradient_weight, self.rectify = cam_weight, gradient_weight, rectify
        self.needs_teacher_graph = bool(gradient_weight)
        self.name_maps(teacher_maps, student_maps)
        if teacher_maps is not None:
            self.teacher_maps, self.student_maps = map(self.choose_stages, (self.teacher_maps, self.student_maps))
        self._checked = False

    def choose_stages(self, stages: Sequence[str]) -> Sequence[str]:
        """Return all stages, or the last alone if the gradient-weighted maps are not compared.

        Args:
            stages: names of the stages, the first first.

        Raises:
            ValueError: if there is only one, and gradient-weighted maps are compared.
        """
        if self.gradient_weight and len(stages) < 2:
            raise ValueError(
                f"MSARC: expected the modules for gradient-weighted maps, then the last one, got {list(stages)}: name "
                "earlier modules too, or set gradient_weight=0"
            )
        return stages if self.gradient_weight else stages[-1:]

    def make(self, spec: LossSpec) -> None:
        """Check the shapes.

        Args:
            spec: shapes of the task.
        """
        name = type(self).__name__
        for index, (student, teacher) in enumerate(map_shapes(name, spec)):
            if student[1:] != teacher[1:]:
                raise ValueError(
                    f"MSARC: expected maps of equal height and width, got {student} from {self.student_maps[index]!r} "
                    f"and {teacher} (channels, height, width) from {self.teacher_maps[index]!r}: name other modules"
                )
        check_width(name, f"student_maps[-1]={self.student_maps[-1]!r}", spec.student)
        check_width(name, f"teacher_maps[-1]={self.teacher_maps[-1]!r}", spec.teacher)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> LossTerms:
        """Return the terms ``cam`` and ``gradient``, see :class:`DistillationLoss`."""
        terms = {"cam": lambda: self._cams(student, teacher), "gradient": lambda: _gradients(student, teacher)}
        return LossTerms(terms, {"cam": self.cam_weight, "gradient": self.gradient_weight})

    def _cams(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        ours, theirs = last_maps(type(self).__name__, student, teacher, rectify=self.rectify, check=not self._checked)
        self._checked = True
        head = cast(ClassifierHead, self.context.student_head)
        return map_error(
            class_activation_maps(ours, head.weight.detach()),
            class_activation_maps(theirs.detach(), self.teacher_head.weight),
        )

    def extra_repr(self) -> str:
        """Return the modules and settings for ``print``."""
        pairs = f"teacher_maps={self.teacher_maps}, student_maps={self.student_maps}, cam_weight={self.cam_weight}"
        return f"{pairs}, gradient_weight={self.gradient_weight}, rectify={self.rectify}"


def _gradients(student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
    classes = teacher.logits.argmax(1)
    ours, theirs = (gradient_weighted_maps(one.logits, classes, one.maps[:-1]) for one in (student, teacher))
    # Without detach, the backward pass would run through the teacher too.
    return torch.stack([map_error(s, t.detach()) for s, t in zip(ours, theirs, strict=True)]).sum()
