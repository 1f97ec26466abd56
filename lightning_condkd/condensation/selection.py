"""Selection of real images as a baseline for condensed ones: random, herding, k-center and k-means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor

from lightning_condkd.functional.selection import herding, k_center, k_means_nearest
from lightning_condkd.models import Observer
from lightning_condkd.progress import each
from lightning_condkd.types import NetworkOutput


class SelectionMethod(ABC):
    """Base of the methods that choose real images of one class, or parts of them; nothing is learned.

    Attributes:
        name: name of the method in the files that it makes.
        needs_teacher: whether it uses outputs of a trained network.
    """

    name: str
    needs_teacher = True

    def select(
        self, images: Tensor, label: int, count: int, *, teacher: Observer | None, generator: torch.Generator
    ) -> Tensor:
        """Choose images of a class.

        Args:
            images: all images of the class, ``(N, C, H, W)``, floating point pixels in the units of [0, 1]. They may
                stay on the CPU; a batch at a time goes to the teacher's device.
            label: the class.
            count: images to choose.
            teacher: the trained network, in eval mode; ``None`` if none is needed.
            generator: a CPU generator for this class only.

        Returns:
            ``(count, C, H, W)``, on the device and in the dtype of the images.

        Raises:
            ValueError: if there are too few images, or the teacher is missing, in training mode, has fewer classes or
                returns values that are not finite.
        """
        if not 1 <= count <= len(images) // self.needed(1):
            raise ValueError(
                f"class {label} has {len(images)} images, expected at least {max(1, self.needed(count))} for "
                f"{count} by {self.name}: choose fewer, but at least 1, or give more images"
            )
        self.check_teacher(teacher)
        if teacher is not None and not label < teacher.num_classes:
            raise ValueError(
                f"the teacher knows {teacher.num_classes} classes, got class {label}: give that of the data"
            )
        if teacher is not None and teacher.training:
            raise ValueError("expected a teacher in eval mode, got one in training mode: call teacher.freeze()")
        with torch.no_grad():
            return self.choose(images, label, count, teacher, generator)

    @abstractmethod
    def choose(
        self, images: Tensor, label: int, count: int, teacher: Observer | None, generator: torch.Generator
    ) -> Tensor:
        """Choose from checked arguments; a subclass implements this. No gradient is recorded."""

    def needed(self, count: int) -> int:
        """Return the number of images that a class must have.

        Args:
            count: images to choose.
        """
        return count

    def check_teacher(self, teacher: Observer | None) -> None:
        """Raise a ``ValueError`` if a teacher is needed but missing.

        Args:
            teacher: the trained network, or ``None``.
        """
        if self.needs_teacher and teacher is None:
            raise ValueError(
                f"{type(self).__name__} looks at the images through a trained network, got no teacher: give one, or "
                "take RandomSelection"
            )

    def settings(self) -> dict[str, Any]:
        """Return the settings that a file of this method records, JSON values only."""
        return {}


class RandomSelection(SelectionMethod):
    """Choose images uniformly at random, without replacement.

    Example:
        >>> images, generator = torch.rand(5, 3, 8, 8), torch.Generator().manual_seed(0)
        >>> RandomSelection().select(images, label=0, count=2, teacher=None, generator=generator).shape
        torch.Size([2, 3, 8, 8])
    """

    name = "random"
    needs_teacher = False

    def choose(
        self, images: Tensor, label: int, count: int, teacher: Observer | None, generator: torch.Generator
    ) -> Tensor:
        """Return the first images of a random order."""
        return images[torch.randperm(len(images), generator=generator)[:count]]


class EmbeddingSelection(SelectionMethod):
    """Base of the methods that choose by the teacher's embedding, which is not normalised.

    Args:
        batch_size: images in a forward pass of the teacher (our default).

    Raises:
        ValueError: if the batch size is not positive.
    """

    def __init__(self, batch_size: int = 256) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number of images, got {batch_size}")
        self.batch_size = batch_size

    @abstractmethod
    def rows(self, embeddings: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return the rows to choose, given the embeddings ``(N, D)`` of all images of a class."""

    def choose(
        self, images: Tensor, label: int, count: int, teacher: Observer | None, generator: torch.Generator
    ) -> Tensor:
        """Return the images at :meth:`rows`."""
        observe = cast(Observer, teacher)
        batches = torch.split(images, self.batch_size)
        shown = each(batches, f"class {label}: embedding images", len(batches), "batches", leave=False)
        embeddings = torch.cat(
            [cast(Tensor, teacher_output(observe, batch, embedding=True).embedding) for batch in shown]
        )
        return images[self.rows(embeddings, count, generator).to(images.device)]


class Herding(EmbeddingSelection):
    """Choose images one by one so that their mean embedding is nearest to that of the class.

    See :func:`~lightning_condkd.functional.selection.herding`.

    Example:
        >>> from lightning_condkd.models import DigitsNet
        >>> teacher, generator = Observer(DigitsNet()).freeze(), torch.Generator().manual_seed(0)
        >>> Herding().select(torch.rand(5, 1, 8, 8), label=0, count=2, teacher=teacher, generator=generator).shape
        torch.Size([2, 1, 8, 8])
    """

    name = "herding"

    def rows(self, embeddings: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return the rows to choose; nothing is drawn."""
        return herding(embeddings, count)


class KCenter(EmbeddingSelection):
    """Choose images that cover the class: first the nearest to the mean, then each time the farthest from those chosen.

    See :func:`~lightning_condkd.functional.selection.k_center`.
    """

    name = "k-centre"

    def rows(self, embeddings: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return the rows to choose; nothing is drawn."""
        return k_center(embeddings, count)


class KMeans(EmbeddingSelection):
    """Choose the image nearest to each centre of a clustering, starting with the largest cluster.

    See :func:`~lightning_condkd.functional.selection.k_means_nearest`.
    """

    name = "k-means"

    def rows(self, embeddings: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return the rows to choose."""
        return k_means_nearest(embeddings, count, generator)


def teacher_output(teacher: Observer, images: Tensor, *, embedding: bool = False) -> NetworkOutput:
    """Return the teacher's output for images, after moving them to its device and dtype.

    Args:
        teacher: the trained network.
        images: ``(N, C, H, W)``, pixels in the units of [0, 1].
        embedding: whether to return the embedding.

    Raises:
        ValueError: if the logits are not finite.
    """
    weights = next(teacher.parameters())
    output = cast(NetworkOutput, teacher(images.to(weights.device, weights.dtype), embedding=embedding))
    if not bool(output.logits.isfinite().all()):
        raise ValueError("the teacher returns NaN or infinity: check its weights and its normalisation")
    return output
