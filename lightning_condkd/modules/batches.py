"""Real images on their way into a module, and word of the set that comes out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_condkd.data.datamodule_images import ImageDataModule
from lightning_condkd.data.images import ImageSource
from lightning_condkd.modules.run_length import dev_steps


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


def real_images(module: L.LightningModule) -> ImageDataModule:
    """Return the datamodule that a module is fitted with, which must hold real images in memory.

    Args:
        module: the module.

    Raises:
        TypeError: if it is fitted with something else.
    """
    data = getattr(module.trainer, "datamodule", None)
    if not isinstance(data, ImageDataModule):
        name = type(module).__name__
        raise TypeError(f"{name} needs real images: fit it with an ImageDataModule, such as DigitsDataModule")
    return data


def source_facts(source: ImageSource) -> dict[str, Any]:
    """Return what tells real images from others, JSON values only.

    Args:
        source: the images.

    Example:
        >>> source = ImageSource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog"))
        >>> source_facts(source)["images"], source_facts(source)["sha256"][:8]
        (2, '...')
    """
    digest = hashlib.sha256()
    for tensor in (source.images, source.labels):
        digest.update(cast(Any, tensor.contiguous().numpy()))
    shape, names = list(source.image_shape), list(source.class_names)
    return {"class_names": names, "image_shape": shape, "images": len(source), "sha256": digest.hexdigest()}


def check_class_sizes(source: ImageSource, needed: int, cure: str) -> None:
    """Check that every class has enough images.

    Args:
        source: the images.
        needed: images of a class.
        cure: what to do if one has fewer, beside leaving it out.

    Raises:
        ValueError: if one has.

    Example:
        >>> source = ImageSource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog"))
        >>> check_class_sizes(source, 2, cure="lower ipc")
        Traceback (most recent call last):
        ValueError: class 'cat' has 1 training images, expected at least 2: lower ipc, or leave it out of the data
    """
    for name, rows in zip(source.class_names, source.class_rows, strict=True):
        if len(rows) < needed:
            raise ValueError(
                f"class {name!r} has {len(rows)} training images, expected at least {needed}: {cure}, or leave it out "
                "of the data"
            )


def say_written(output: Path, trainer: L.Trainer) -> None:
    """Say where a condensed set is, and what to do with it; a ``fast_dev_run`` writes none.

    Args:
        output: its file.
        trainer: the trainer of the run.
    """
    if dev_steps(trainer):
        rank_zero_info(f"fast_dev_run: {output} is not written")
        return
    rank_zero_info(f"condensed set written to {output}: judge it by 'lightning-condkd evaluate {output} --data ...'")
