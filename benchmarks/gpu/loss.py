"""What the compact form of the training images loses: distance to the originals, and accuracy of a network on both."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.models import CifarResNet, Observer
from lightning_condkd.pixels import to_pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHUNK = 1000
PER_CLASS = 500


def distance(originals: Tensor, compact: Tensor) -> dict[str, float]:
    """Return the PSNR in dB and the mean absolute error in steps of 1/255, over all pixels of all images.

    Args:
        originals: uint8 images.
        compact: the same images after compaction, uint8.
    """
    squares = errors = 0.0
    for some, others in zip(originals.split(CHUNK), compact.split(CHUNK), strict=True):
        difference = some.double() - others.double()
        squares += difference.square().sum().item()
        errors += difference.abs().sum().item()
    mean_square = squares / originals.numel()
    psnr = 10 * math.log10(255**2 / mean_square) if mean_square else math.inf
    return {"psnr_db": round(psnr, 2), "mean_absolute_error": round(errors / originals.numel(), 3)}


def accuracies(train: ImageSource, compact: Tensor, test: ImageSource, weights: Path) -> dict[str, float]:
    """Return the top-1 in % of the ResNet-20 on some training images before and after compaction, and on the test ones.

    Args:
        train: training images; the first 500 of each class are looked at.
        compact: the same images after compaction, uint8.
        test: test images.
        weights: file of the network.
    """
    observer = Observer(CifarResNet(20), mean=MEAN, std=STD, weights=weights).freeze()
    rows = torch.cat([of_class[:PER_CLASS] for of_class in train.class_rows])
    labels = train.labels[rows]
    return {
        "train_before": top1(observer, train.images[rows], labels),
        "train_after": top1(observer, compact[rows], labels),
        "test": top1(observer, test.images, test.labels),
    }


def top1(observer: Observer, images: Tensor, labels: Tensor) -> float:
    """Return a network's top-1 accuracy in %."""
    with torch.inference_mode():
        chosen = torch.cat([observer(to_pixels(some)).logits.argmax(1) for some in images.split(CHUNK)])
    return round(100 * (chosen == labels).double().mean().item(), 2)
