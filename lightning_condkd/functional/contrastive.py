"""Contrastive losses: between views of the same image, and between two networks with a memory of embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32


def contrastive_loss(
    local_views: Tensor,
    global_views: Tensor,
    bank_local: Tensor,
    bank_global: Tensor,
    temperature: float,
    own: Tensor | None = None,
) -> Tensor:
    r"""Return the instance discrimination loss of current images and of images from a memory bank.

    With local views :math:`l_i` and detached global views :math:`g_j` of all images, current and from the bank, it is
    the mean of :math:`-\log \frac{\exp(l_i \cdot g_i / \tau)}{\sum_j \exp(l_i \cdot g_j / \tau)}` over the current
    images plus its mean over the bank images. With an empty bank it is the first mean alone.

    Args:
        local_views: unit vectors of this rank's images, ``(N / world_size, P)``.
        global_views: unit vectors of the global batch, ``(N, P)``.
        bank_local: unit vectors of local views of the bank images, ``(B, P)``, ``B`` may be 0.
        bank_global: unit vectors of global views of the same images, ``(B, P)``.
        temperature: :math:`\tau`, above 0.
        own: row in the global batch of each local view's image; ``None`` for the same order.

    Returns:
        A scalar in float32 at least.

    Example:
        >>> local, other = torch.eye(2), torch.eye(2)
        >>> round(contrastive_loss(local, other, local[:0], other[:0], temperature=0.5).item(), 4)
        0.1269

    References:
        Fang et al.: "Contrastive Model Inversion for Data-Free Knowledge Distillation", arXiv 2105.08584.
    """
    count, device = len(global_views), local_views.device
    own = torch.arange(count) if own is None else own
    with torch.autocast(device.type, enabled=False):
        keys = at_least_float32(torch.cat([global_views, bank_global])).detach() / temperature
        loss = F.cross_entropy(at_least_float32(local_views) @ keys.T, own.to(device))
        if not len(bank_local):
            return loss
        remembered = torch.arange(count, len(keys), device=device)
        return loss + F.cross_entropy(at_least_float32(bank_local) @ keys.T, remembered)


def contrastive_estimate(scores: Tensor, own: Tensor, drawn: Tensor, noise: float) -> Tensor:
    r"""Return the noise-contrastive loss of embeddings against a memory with one row for each image.

    With :math:`h = s / (s + \nu)` it is :math:`-\log h` of the image's own row plus :math:`-\log (1 - h)` of every row
    that was drawn as a negative. It is computed from logarithms, so that nothing overflows and no small constant is
    added.

    Args:
        scores: :math:`\log s` of every image with every row, ``(N, M)``.
        own: each image's own row, ``(N,)`` int64.
        drawn: how often each row was drawn as a negative of the image, ``(N, M)``.
        noise: :math:`\nu`, the number of negatives divided by the number of images, positive.

    Returns:
        Mean over the batch, a scalar in float32 at least.

    Raises:
        ValueError: if the noise is not positive.

    Example:
        >>> scores, drawn = torch.zeros(1, 3), torch.tensor([[0.0, 2.0, 1.0]])
        >>> round(contrastive_estimate(scores, torch.tensor([0]), drawn, noise=1.0).item(), 4)  # 4 log 2
        2.7726

    References:
        Tian et al.: "Contrastive Representation Distillation", arXiv 1910.10699.
    """
    if not noise > 0:
        raise ValueError(f"noise: expected negatives / images, a positive number, got {noise}")
    margin = at_least_float32(scores) - math.log(noise)
    positive = F.softplus(-margin.gather(1, own[:, None])).sum(1)
    negative = (drawn.to(margin) * F.softplus(margin)).sum(1)
    return (positive + negative).mean()


def draw_other_classes(rows: Tensor, classes: Tensor, uniform: Tensor) -> Tensor:
    """Return how often rows of a memory are drawn as negatives: each draw falls evenly on the rows of other classes.

    An image whose class is the only one in the memory gets negatives of its own class, never its own row. One that is
    alone in the memory gets none.

    Args:
        rows: row of each image in the memory, ``(N,)`` int64.
        classes: class of each row, ``(M,)`` int64, negative for an empty row, which is never drawn.
        uniform: numbers in [0, 1), one for each draw, ``(N, K)``.

    Returns:
        Counts, ``(N, M)`` float32, whose sum is K for each image.

    Example:
        >>> draw_other_classes(torch.tensor([0]), torch.tensor([5, 5, 7, -1]), torch.tensor([[0.0, 0.9]]))
        tensor([[0., 0., 2., 0.]])
    """
    order = classes.argsort(stable=True)
    ordered, own = classes[order], classes[rows]
    empty = (classes < 0).sum()
    first, last = torch.searchsorted(ordered, own), torch.searchsorted(ordered, own, right=True)
    alone = (last - first) == len(classes) - empty
    place = order.argsort()[rows]
    first, last = torch.where(alone, place, first), torch.where(alone, place + 1, last)
    others = len(classes) - empty - (last - first)
    drawn = empty + (uniform * others[:, None]).long().clamp(max=(others[:, None] - 1).clamp(min=0))
    drawn += (drawn >= first[:, None]) * (last - first)[:, None]
    counts = torch.zeros(len(rows), len(classes), device=rows.device)
    there = (others > 0)[:, None].to(counts).expand(drawn.shape)
    return counts.scatter_add_(1, order[drawn.clamp(max=len(classes) - 1)], there)
