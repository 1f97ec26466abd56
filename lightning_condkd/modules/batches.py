"""Real images on their way into a module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def real_batch(batch: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - a user's loader may yield anything
    """Return images in the units of [0, 1] in the default dtype, and labels.

    Args:
        batch: images ``(N, C, H, W)``, uint8 or floating point in [0, 1], and labels ``(N,)``.

    Raises:
        ValueError: if the batch is no such pair, or its images are normalised.

    Example:
        >>> images, labels = real_batch((torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), torch.tensor([4])))
        >>> images.max(), labels
        (tensor(1.), tensor([4]))
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(f"expected batches (images, labels) of real images, got {type(batch).__name__}")
    images, labels = batch
    if images.dtype == torch.uint8:
        return images.to(torch.get_default_dtype()) / 255, labels
    if images.numel() and (float(images.min()) < -1e-3 or float(images.max()) > 1 + 1e-3):
        raise ValueError(
            f"expected real images in [0, 1] or uint8, got pixels from {float(images.min()):.2f} to "
            f"{float(images.max()):.2f}: remove Normalize from the loader, the networks normalise by themselves"
        )
    return images.to(torch.get_default_dtype()), labels
