"""Readable summary of the images and classes of a labelled set."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def count_line(images: Tensor, counts: Tensor) -> str:
    """Return a line with the number of images, their size, and the number of images per class.

    Args:
        images: ``(N, C, H, W)``.
        counts: images of each class, ``(K,)``.

    Example:
        >>> import torch
        >>> count_line(torch.zeros(5, 3, 8, 8), torch.tensor([2, 3]))
        '5 images of 3 x 8 x 8 (float32), 2 to 3 per class, 2 classes'
    """
    per_class = " to ".join(str(n) for n in sorted({int(counts.min()), int(counts.max())}))
    size, dtype = " x ".join(map(str, images.shape[1:])), str(images.dtype).removeprefix("torch.")
    return f"{len(images)} images of {size} ({dtype}), {per_class} per class, {len(counts)} classes"


def empty_classes(counts: Tensor, class_names: Sequence[str] | None = None) -> list[str]:
    """Return the names of the classes without an image.

    Args:
        counts: images of each class, ``(K,)``.
        class_names: names of the classes; ``None`` for their numbers.

    Example:
        >>> import torch
        >>> empty_classes(torch.tensor([2, 0, 1]), ("cat", "dog", "eel"))
        ['dog']
    """
    labels: list[int] = (counts == 0).nonzero().flatten().tolist()
    return [class_names[label] if class_names else str(label) for label in labels]
