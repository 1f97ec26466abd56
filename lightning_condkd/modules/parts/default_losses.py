"""Default distillation losses of inversion methods."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_condkd.distillation import (
    AttentionDistillation,
    DistillationLoss,
    KLDistillation,
    LogitsL1Distillation,
)
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import Observer
from lightning_condkd.models.stages import stage_names


def default_distillation(inversion: Inversion, teacher: object, student: object) -> DistillationLoss:
    """Return the loss of a method's official code.

    Args:
        inversion: the method.
        teacher: the teacher, whose stages are compared by the loss of ZSKT.
        student: the student; if its stages do not pair with the teacher's, ZSKT has no attention maps.

    Example:
        >>> from lightning_condkd.inversion import DFAD, DFQ, ZSKT, Fast
        >>> from lightning_condkd.models import CifarResNet, DigitsNet
        >>> [default_distillation(method, nn.Identity(), nn.Identity()) for method in (DFAD(), DFQ(), Fast(), ZSKT())]
        [LogitsL1Distillation(), KLDistillation(temperature=1.0), KLDistillation(temperature=20.0), KLDistillation(temperature=1.0)]
        >>> default_distillation(ZSKT(), CifarResNet(20), CifarResNet(8))
        AttentionDistillation(attention_weight=250.0, reduction=elementwise)
    """  # noqa: E501 - the printed list
    if inversion.student_loss == "logits_l1":
        return LogitsL1Distillation()
    if inversion.student_loss == "attention" and _stages_pair(teacher, student):
        return AttentionDistillation()
    usual = 1.0 if inversion.source == "live" else 20.0
    return KLDistillation(usual if inversion.student_temperature is None else inversion.student_temperature)


def _stages_pair(teacher: object, student: object) -> bool:
    networks = [one.network if isinstance(one, Observer) else one for one in (teacher, student)]
    first, second = (stage_names(one) if isinstance(one, nn.Module) else () for one in networks)
    return len(first) == len(second) > 1  # the published loss compares several


def warn_of_attention(inversion: Inversion, loss: DistillationLoss) -> None:
    """Warn that the loss of a method's official code needs names of modules from the user.

    Args:
        inversion: the method.
        loss: the loss used instead.
    """
    name = type(inversion).__name__
    rank_zero_warn(
        f"the official code of {name} adds attention maps to the student's loss, but the stages of teacher and student "
        f"do not pair here, so the student minimises {loss} alone: pass distillation=AttentionDistillation([...], "
        f"[...]) with names of blocks in pairs, or distillation={loss} if that is meant"
    )
