"""Handwritten digits of scikit-learn as real images."""

from __future__ import annotations

import torch

from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.pixels import to_bytes

HELD_OUT = 500


def load_digits_split(train: bool) -> ImageSource:
    """Return the digits with values 0 to 16 scaled to 0 to 255.

    The split is by index, without a shuffle: the last 500 of the 1797 images are held out, the first 1297 are for
    training.

    Args:
        train: the training images, or the held-out ones.

    Example:
        >>> source = load_digits_split(train=False)
        >>> source.images.shape, source.images.max()
        (torch.Size([500, 1, 8, 8]), tensor(255, dtype=torch.uint8))
    """
    from sklearn.datasets import load_digits  # takes a second, also for commands that do not use it

    data = load_digits()
    rows = slice(None, -HELD_OUT) if train else slice(-HELD_OUT, None)
    images = to_bytes(torch.from_numpy(data.images[rows]) / 16).unsqueeze(1)
    return ImageSource(images, torch.from_numpy(data.target[rows]).long(), tuple("0123456789"))
