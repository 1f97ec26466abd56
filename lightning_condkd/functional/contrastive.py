"""Contrastive loss that matches each local view with the global view of the same image."""

from __future__ import annotations

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
