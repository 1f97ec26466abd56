"""Selection by realism: the crops of real images with the lowest loss of a teacher."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.augment.base import AugmentParameters, take
from lightning_condkd.augment.geometric import ResizedCrop
from lightning_condkd.condensation.selection import SelectionMethod, teacher_output
from lightning_condkd.functional.tiling import frame, shrink, tile
from lightning_condkd.models import Observer
from lightning_condkd.precision import at_least_float32
from lightning_condkd.progress import each


class RealismSelection(SelectionMethod):
    """RDED-like: choose the random crops of real images with the lowest teacher loss, and join several in an image.

    Several square crops of random images of the class are ranked by the teacher's cross-entropy for the class. Each
    image is represented by its best crop, and the best images are chosen. This is the selection alone, without RDED's
    teacher labels and training. The crops need not be aligned to whole pixels.

    Args:
        crops: number of crops of an image (scripts of the official code 5).
        factor: an image of the result has factor x factor crops, each with 1/factor of the sides (scripts of the
            official code 1 up to 64x64 pixels, else 2). The teacher gets a crop of that size in the middle of an image
            filled with the mean of its normalisation, as in the official code.
        pool: number of random images of a class to choose from (scripts of the official code 300); ``None``, or a
            smaller class, uses all.
        scale: least and greatest area of a crop as a share of the image's area (official code 0.08 to 1).
        batch_size: crops in a forward pass of the teacher (our default).

    Raises:
        ValueError: if a count is not positive, or the scale is not in (0, 1]; in :meth:`select` also if the sides of
            the images are not divisible by the factor, or the pool is too small.

    Example:
        >>> from lightning_condkd.models import DigitsNet
        >>> teacher, generator = Observer(DigitsNet()).freeze(), torch.Generator().manual_seed(0)
        >>> method = RealismSelection(factor=2)
        >>> method.select(torch.rand(9, 1, 8, 8), label=0, count=2, teacher=teacher, generator=generator).shape
        torch.Size([2, 1, 8, 8])

    References:
        Sun et al., "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm",
        CVPR 2024, arXiv 2312.03526.
    """

    name = "RDED-like"

    def __init__(
        self,
        crops: int = 5,
        factor: int = 1,
        *,
        pool: int | None = 300,
        scale: tuple[float, float] = (0.08, 1.0),
        batch_size: int = 256,
    ) -> None:
        counts = {"crops": crops, "factor": factor, "pool": 1 if pool is None else pool, "batch_size": batch_size}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        self.crops, self.factor, self.pool, self.batch_size = crops, factor, pool, batch_size
        self.crop = ResizedCrop(scale, ratio=(1.0, 1.0), flip_probability=0.0)

    def needed(self, count: int) -> int:
        """Return the number of images that a class must have, one for each tile."""
        return count * self.factor**2

    def settings(self) -> dict[str, Any]:
        """Return the settings that a file of this method records."""
        return {"crops": self.crops, "factor": self.factor, "pool": self.pool, "scale": list(self.crop.scale)}

    def choose(
        self, images: Tensor, label: int, count: int, teacher: Observer | None, generator: torch.Generator
    ) -> Tensor:
        """Return the best crops, joined into images."""
        self._check(images, count)
        pool = images[torch.randperm(len(images), generator=generator)[: self.pool].to(images.device)]
        drawn = [self.crop.sample(len(pool), generator) for _ in range(self.crops)]
        size = max(1, self.batch_size // self.crops)
        parts = [slice(start, start + size) for start in range(0, len(pool), size)]
        scored = [
            self._best(pool[rows], [take(parameters, rows) for parameters in drawn], label, cast(Observer, teacher))
            for rows in each(parts, f"class {label}: scoring crops", len(parts), "batches", leave=False)
        ]
        losses, crops = (torch.cat(found).to(images.device) for found in zip(*scored, strict=True))
        return tile(crops[losses.argsort(stable=True)[: self.needed(count)]], self.factor)

    def _check(self, images: Tensor, count: int) -> None:
        if self.pool is not None and self.pool < self.needed(count):
            raise ValueError(
                f"pool: expected at least {self.needed(count)} images for {count} of {self.factor} x {self.factor} "
                f"crops, got {self.pool}: raise pool or choose fewer"
            )
        if images.shape[2] % self.factor or images.shape[3] % self.factor:
            raise ValueError(
                f"factor: expected one that divides the sides of the images {tuple(images.shape[2:])}, got "
                f"{self.factor}: choose another, or resize the images"
            )

    def _best(
        self, images: Tensor, drawn: list[AugmentParameters], label: int, teacher: Observer
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of the best crop of each image, and that crop, on the teacher's device."""
        images = images.to(next(teacher.parameters()).device)
        crops = torch.stack([shrink(self.crop(images, parameters), self.factor) for parameters in drawn])
        color = images.new_zeros(images.shape[1]) if teacher.mean is None else teacher.mean
        views = frame(crops.flatten(0, 1), (images.shape[2], images.shape[3]), color)
        logits = at_least_float32(teacher_output(teacher, views).logits)
        labels = torch.full((len(logits),), label, device=logits.device)
        losses = F.cross_entropy(logits, labels, reduction="none").view(len(drawn), -1)
        loss, which = losses.min(0)
        return loss, crops[which, torch.arange(len(images), device=images.device)]
