"""Conversion and checks of batches of real images: pixels, labels and shapes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_condkd.data.image_datamodules import ImageDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.messages import listed
from lightning_condkd.pixels import to_pixels
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.training.trainer_access import image_data_of, real_data_of


def real_batch(batch: Any, num_classes: int | None = None) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - of any loader
    """Return images in the units of [0, 1] in the default dtype, and labels as int64.

    Args:
        batch: images ``(N, C, H, W)``, uint8 or floating point in [0, 1], and labels ``(N,)`` of any integer type.
        num_classes: number of classes that the labels are checked against; ``None`` disables the check of their values.

    Raises:
        ValueError: if the batch is no such pair, its images are normalised or not finite, or a label is no class.

    Example:
        >>> images, labels = real_batch((torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), torch.tensor([4])))
        >>> images.max(), labels
        (tensor(1.), tensor([4]))
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(f"expected batches (images, labels) of real images, got {type(batch).__name__}")
    images = _tensor(batch[0])
    labels = class_labels(batch[1], len(images), num_classes)
    return image_pixels(images), labels


def training_batch(batch: Any, num_classes: int) -> tuple[Tensor, Tensor, Tensor | None]:  # noqa: ANN401 - any loader's
    """Return images in the units of [0, 1] in the default dtype, labels, and the rows of the images if there are any.

    Args:
        batch: images ``(N, C, H, W)``, uint8 or floating point in [0, 1]; classes ``(N,)`` with -1 where unknown, or
            probabilities ``(N, K)``; and possibly rows ``(N,)``.
        num_classes: number of classes K.

    Raises:
        ValueError: if the batch is no such tuple, its images are normalised or not finite, or a label is no class.

    Example:
        >>> training_batch((torch.zeros(2, 3, 2, 2), torch.tensor([-1, 4])), 10)[1]
        tensor([-1,  4])
    """
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise ValueError(f"expected batches (images, labels) or (images, labels, rows), got {type(batch).__name__}")
    images, labels = _tensor(batch[0]), batch[1]
    if isinstance(labels, Tensor) and labels.is_floating_point() and labels.shape == (len(images), num_classes):
        return image_pixels(images), labels.to(torch.get_default_dtype()), batch[2] if len(batch) == 3 else None
    classes = class_labels(labels, len(images))
    known = classes[classes >= 0]
    class_labels(known, len(known), num_classes)
    return image_pixels(images), classes, batch[2] if len(batch) == 3 else None


def image_pixels(images: object) -> Tensor:
    """Return images in the units of [0, 1] in the default dtype.

    Args:
        images: ``(N, C, H, W)``, uint8 or floating point in [0, 1].

    Raises:
        ValueError: if they are no such tensor, or are normalised or not finite.

    Example:
        >>> image_pixels(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).max()
        tensor(1.)
    """
    pixels = _tensor(images)
    if pixels.dtype == torch.uint8:
        return to_pixels(pixels)
    if not pixels.is_floating_point():
        raise ValueError(f"expected real images in [0, 1] or uint8, got {pixels.dtype}: convert 0 to 255 with .byte()")
    if pixels.numel():
        low, high = float(pixels.min()), float(pixels.max())
        if math.isnan(low) or math.isinf(low) or math.isinf(high):
            raise ValueError(
                "real images hold NaN or infinity: look for division by zero, or damaged files, in the loader"
            )
        _check_pixels(low, high)
    return pixels.to(torch.get_default_dtype())


def _tensor(images: object) -> Tensor:
    if not isinstance(images, Tensor) or images.dim() != 4:
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"expected real images as a tensor (N, C, H, W), got {found}: convert them in the dataset")
    return images


def _check_pixels(low: float, high: float) -> None:
    if low >= -1e-3 and high <= 1 + 1e-3:
        return
    cure = "remove Normalize from the loader, the networks normalise by themselves"
    if low >= 0 and high > 16:  # higher than any normalised pixel
        cure = "divide them by 255, or give them as uint8"
    raise ValueError(f"expected real images in [0, 1] or uint8, got pixels from {low:.2f} to {high:.2f}: {cure}")


def check_image_shape(images: Tensor, expected: tuple[int, int, int]) -> None:
    """Check that real images have the shape of the training images.

    Args:
        images: ``(N, C, H, W)``.
        expected: ``(C, H, W)`` of the training images.

    Raises:
        ValueError: if their shape differs.
    """
    if tuple(images.shape[1:]) != tuple(expected):
        raise ValueError(
            f"expected real images of {expected} (channels, height, width) as in training, got "
            f"{tuple(images.shape[1:])}: resize them, or convert their channels, in the dataset"
        )


def real_images(module: L.LightningModule) -> ImageDataModule:
    """Return the datamodule of a module's fit, which must have real images in memory.

    Args:
        module: the module.

    Raises:
        TypeError: if the fit uses something else.
    """
    data = image_data_of(module.trainer)
    if data is None:
        name = type(module).__name__
        raise TypeError(f"{name} needs real images in memory: fit it with an ImageDataModule, such as DigitsDataModule")
    return data


def source_facts(source: ImageSource) -> dict[str, Any]:
    """Return facts that identify real images, JSON values only.

    Args:
        source: the images.

    Example:
        >>> source = ImageSource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog"))
        >>> source_facts(source)["images"], source_facts(source)["sha256"][:8]
        (2, '...')
    """
    shape, names = list(source.image_shape), list(source.class_names)
    return {"class_names": names, "image_shape": shape, "images": len(source), "sha256": source.sha256}


def data_settings(trainer: L.Trainer) -> dict[str, Any]:
    """Return the facts that identify the real images of a run; empty for the user's own loaders.

    Args:
        trainer: the trainer, with its data attached.
    """
    data = real_data_of(trainer)
    return {} if data is None else {"data": data.describe_train(), "batch_size": data.batch_size}


def check_class_sizes(source: ImageSource, needed: int, cure: str) -> None:
    """Check that every class has enough images.

    Args:
        source: the images.
        needed: number of images of a class.
        cure: advice if a class has fewer, besides leaving it out.

    Raises:
        ValueError: if a class has fewer.

    Example:
        >>> source = ImageSource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 0]), ("cat", "dog"))
        >>> check_class_sizes(source, 2, cure="lower ipc")
        Traceback (most recent call last):
        ValueError: class 'dog' has 0 training images, expected at least 2: lower ipc, or leave it out of the data
    """
    short = [label for label, rows in enumerate(source.class_rows) if len(rows) < needed]
    if short:
        name, found = source.class_names[short[0]], len(source.class_rows[short[0]])
        others = (
            f", and the same holds for {listed([source.class_names[label] for label in short[1:]])}"
            if short[1:]
            else ""
        )
        raise ValueError(
            f"class {name!r} has {found} training images, expected at least {needed}{others}: {cure}, or leave it out "
            "of the data"
        )


def log_written(what: str, output: str | Path, use: str, trainer: L.Trainer) -> None:
    """Log the path of a run's result and its use; a ``fast_dev_run`` writes no result.

    Args:
        what: description of the result.
        output: its file or folder.
        use: advice on its use.
        trainer: the trainer of the run.
    """
    if dev_steps(trainer):
        rank_zero_info(f"fast_dev_run: {output} is not written")
        return
    rank_zero_info(f"{what} written to {output}: {use}")


def class_labels(labels: Any, count: int, num_classes: int | None = None) -> Tensor:  # noqa: ANN401 - of any loader
    """Return classes as int64.

    Args:
        labels: classes ``(N,)`` of any integer type.
        count: number of images N.
        num_classes: number of classes K, for a check of the values; ``None`` disables this check, which would wait for
            a GPU.

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
    cure = f"the networks have {num_classes} classes, so give the data of these"
    if low == high == -1:
        cure = "the images have no labels, which this module needs: give data with labels"
    if low >= 1 and high == num_classes:
        cure = "they seem to count from 1, so subtract 1 in the dataset"
    raise ValueError(f"expected labels from 0 to {num_classes - 1}, got {low} to {high}: {cure}")
