"""Labels of real images as a loader yields them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def class_labels(labels: Any, count: int, num_classes: int | None = None) -> Tensor:  # noqa: ANN401 - of any loader
    """Return classes as int64.

    Args:
        labels: classes ``(N,)`` of any integer type.
        count: number of images N.
        num_classes: number of classes K that they are checked against; ``None`` for no check of their values, which
            would wait for a GPU.

    Raises:
        ValueError: if they are no such classes.

    Example:
        >>> class_labels(torch.tensor([2, 0], dtype=torch.uint8), 2, num_classes=3)
        tensor([2, 0])
        >>> class_labels(torch.tensor([3, 1]), 2, num_classes=3)
        Traceback (most recent call last):
        ValueError: expected labels from 0 to 2, got 1 to 3: they seem to count from 1, so subtract 1 in the dataset
    """
    if not isinstance(labels, Tensor):
        raise ValueError(f"expected labels as an integer tensor ({count},), got {type(labels).__name__}")
    if labels.shape != (count,) or labels.is_floating_point() or labels.is_complex():
        found = f"{str(labels.dtype)[6:]} {tuple(labels.shape)}"
        raise ValueError(f"expected labels as an integer tensor ({count},), got {found}: {_cure(labels, count)}")
    classes = labels.to(torch.int64)
    if num_classes is not None and count:
        low, high = classes.aminmax()
        _check_range(int(low), int(high), num_classes)
    return classes


def _cure(labels: Tensor, count: int) -> str:
    if labels.dim() == 2 and labels.shape[0] == count:
        return "take labels.squeeze(1)" if labels.shape[1] == 1 else "turn rows of K into classes by labels.argmax(1)"
    if labels.shape == (count,):
        return "convert whole numbers with labels.long(); probabilities are no classes"
    return "the dataset has to yield one class for each image"


def _check_range(low: int, high: int, num_classes: int) -> None:
    if low >= 0 and high < num_classes:
        return
    cure = f"the networks know {num_classes} classes, so give the data of these"
    if low >= 1 and high == num_classes:
        cure = "they seem to count from 1, so subtract 1 in the dataset"
    raise ValueError(f"expected labels from 0 to {num_classes - 1}, got {low} to {high}: {cure}")
