"""Default distillation losses of inversion methods."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn

from lightning_condkd.distillation import DistillationLoss, KLDistillation, LogitsL1Distillation
from lightning_condkd.inversion import Inversion


def default_distillation(inversion: Inversion) -> DistillationLoss:
    """Return the loss of a method's official code, without parts that depend on names of modules.

    Args:
        inversion: the method.

    Example:
        >>> from lightning_condkd.inversion import DFAD, DFQ, Fast
        >>> [default_distillation(method) for method in (DFAD(), DFQ(), Fast())]
        [LogitsL1Distillation(), KLDistillation(temperature=1.0), KLDistillation(temperature=20.0)]
    """
    if inversion.student_loss == "logits_l1":
        return LogitsL1Distillation()
    return KLDistillation(1.0 if inversion.source == "live" else 20.0)


def warn_of_attention(inversion: Inversion, loss: DistillationLoss) -> None:
    """Warn that the loss of a method's official code needs names of modules from the user.

    Args:
        inversion: the method.
        loss: the loss used instead.
    """
    name = type(inversion).__name__
    rank_zero_warn(
        f"the official code of {name} adds attention maps to the student's loss, of blocks whose names are not known "
        f"here, so the student minimises {loss} alone: pass distillation=AttentionDistillation([...]) with the names "
        f"of the teacher's blocks, such as layer1, layer2, layer3, or distillation={loss} if that is meant"
    )
