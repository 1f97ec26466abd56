"""Means of the teacher's embeddings for each class."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.distributed import mean_over_ranks
from lightning_condkd.models import Observer
from lightning_condkd.precision import at_least_float32, at_least_float32_dtype

BATCH = 256


@torch.no_grad()
def class_means(teacher: Observer, batches: Iterable[tuple[Tensor, Tensor]], *, all_ranks: bool = False) -> Tensor:
    """Return the mean of a network's embeddings for each class.

    Args:
        teacher: the network, in eval mode.
        batches: images ``(N, C, H, W)``, pixels in the units of [0, 1], and classes ``(N,)``, the teacher's prediction
            is taken where they are -1; or probabilities ``(N, K)``, the largest is taken.
        all_ranks: whether the ranks have different batches, whose means are to be combined.

    Returns:
        ``(K, D)``; zeros for a class without images.

    Example:
        >>> from lightning_condkd.models import DigitsNet
        >>> teacher = Observer(DigitsNet(width=4)).freeze()
        >>> class_means(teacher, [(torch.rand(6, 1, 8, 8), torch.arange(6) % 3)]).shape
        torch.Size([10, 8])
    """
    device = next(teacher.parameters()).device
    exact = at_least_float32_dtype()
    sums = torch.zeros(teacher.num_classes, teacher.embedding_size, device=device, dtype=exact)
    counts = torch.zeros(teacher.num_classes, 1, device=device, dtype=exact)
    for images, labels in batches:
        output = teacher(images.to(device), embedding=True)
        embedding, classes = at_least_float32(output.embedding), labels.to(device)
        classes = classes.argmax(1) if classes.dim() == 2 else classes
        classes = torch.where(classes < 0, output.logits.argmax(1), classes)
        sums = sums.to(embedding.dtype).index_add(0, classes, embedding)
        counts += torch.bincount(classes, minlength=len(counts))[:, None]
    if all_ranks:
        sums, counts = mean_over_ranks(sums), mean_over_ranks(counts)
    return sums / torch.where(counts > 0, counts, 1.0)


def condensed_class_means(teacher: Observer, condensed: CondensedSet) -> Tensor:
    """Return the :func:`class_means` of a condensed set.

    Args:
        teacher: the network, in eval mode.
        condensed: the condensed set.
    """
    device = next(teacher.parameters()).device
    rows = torch.split(torch.arange(len(condensed)), BATCH)
    return class_means(teacher, ((condensed.pixels(part, device), condensed.labels[part]) for part in rows))
