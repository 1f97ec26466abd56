"""Values of the classes that an inversion method needs before its first block."""

from __future__ import annotations

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.counts import empty_classes
from lightning_condkd.inversion import Inversion
from lightning_condkd.messages import listed
from lightning_condkd.models import Observer
from lightning_condkd.steps.class_means import condensed_class_means


def give_class_rows(inversion: Inversion, teacher: Observer, condensed: CondensedSet | None = None) -> None:
    """Compute and set the values that a method lacks, see ``Inversion.class_rows_from``; nothing if it lacks none.

    Args:
        inversion: the method, built.
        teacher: the teacher, in eval mode.
        condensed: the condensed set, for means of its embeddings.

    Raises:
        ValueError: if the teacher has no final linear layer, or the condensed set is missing or lacks a class.

    Example:
        >>> import torch
        >>> from lightning_condkd.inversion import NAYER
        >>> from lightning_condkd.models import DigitsNet
        >>> from lightning_condkd.types import TaskSpec
        >>> teacher, method = Observer(DigitsNet(width=4)).freeze(), NAYER(batch_size=10)
        >>> method.build(TaskSpec((1, 8, 8), 10, teacher.embedding_size, teacher.bn_channels), torch.Generator())
        >>> give_class_rows(method, teacher)
        >>> method.vectors.shape
        torch.Size([10, 8])
    """
    if not inversion.lacks_class_rows():
        return
    if inversion.class_rows_from == "teacher_head":
        inversion.set_class_rows(teacher.head().weight.detach())
        return
    name = f"{type(inversion).__name__} needs class means of condensed images"
    if condensed is None:
        raise ValueError(f"{name}: give the condensed set")
    if missing := empty_classes(condensed.counts, condensed.info.class_names):
        raise ValueError(f"{name}, and the condensed set has no image of class {listed(missing)}: add one")
    inversion.set_class_rows(condensed_class_means(teacher, condensed))
