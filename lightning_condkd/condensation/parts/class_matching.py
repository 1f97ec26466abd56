"""Base class of methods that match real and learned images class by class in random networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor

from lightning_condkd.augment import Augment, AugmentName, resolve_augment
from lightning_condkd.condensation.base import CondensationMethod, RealImages
from lightning_condkd.condensation.parts.representative_batches import RepresentativeBatches
from lightning_condkd.functional.augmentation import mirror
from lightning_condkd.models import Observer
from lightning_condkd.models.fresh_networks import FreshNetworks, check_fresh
from lightning_condkd.models.taps import batch_norm_layers
from lightning_condkd.randomness import Draw, draw_by_class

CHUNK_PIXELS = 32 * 32 * 32


class MatchingMethod(CondensationMethod):
    """Base of the methods that compare real and learned images of a class in a random network.

    Args:
        networks: factory of the networks, which include the normalisation of the data.
        augment: applied to real and learned images of a class with the same parameters; ``dsa`` or ``dsa_digits``,
            without flip if ``mirrored``; an augmentation; or ``None``, which disables it.
        real_batch: real images of each class in an iteration, over all ranks; a smaller class gives all of its images.
        chunk: real images in a forward pass; ``None`` for as many as have the pixels of 32 images of 32x32, which was
            the fastest on a CPU with 128 channels.
        mirrored: whether the mirror images of learned images are matched too (FYI).
        representative: choice of the real images (DREAM); ``None`` for new random ones in every iteration.

    Raises:
        ValueError: if a count is not positive.

    References:
        Son et al., "FYI: Flip Your Images for Dataset Distillation", ECCV 2024.
    """

    finals: ClassVar[Mapping[str, str]] = {"make": "make_more(ipc)"}

    def __init__(
        self,
        networks: FreshNetworks,
        *,
        augment: AugmentName | Augment | None = None,
        real_batch: int = 256,
        chunk: int | None = None,
        mirrored: bool = False,
        representative: RepresentativeBatches | None = None,
    ) -> None:
        super().__init__()
        for name, count in {"real_batch": real_batch, "chunk": chunk}.items():
            if count is not None and count < 1:
                raise ValueError(f"{name}: expected a positive number of images, got {count}")
        self.networks = check_fresh(networks)
        self.augment = resolve_augment(augment, networks.mean, networks.std, mirrored)
        self.real_batch, self.chunk, self.mirrored = real_batch, chunk, mirrored
        self.representative = representative

    @final
    def make(self, image_shape: tuple[int, int, int], num_classes: int, ipc: int) -> None:
        """Create the buffer of representative images, see :meth:`make_more`.

        Args:
            image_shape: ``(C, H, W)`` in pixels.
            num_classes: number of classes K.
            ipc: images per class.

        Raises:
            ValueError: if the pool of representative images is too small.
        """
        if self.representative is not None:
            self.representative.build(num_classes, self.real_batch)
        self.make_more(ipc)

    def make_more(self, ipc: int) -> None:
        """Prepare further parts of the method; nothing by default.

        Args:
            ipc: images per class.
        """

    def settings(self) -> dict[str, Any]:
        """Return the settings that a file of this method records."""
        return {
            **self.networks.settings(),
            "augment": repr(self.augment),
            "real_batch": self.real_batch,
            "mirrored": self.mirrored,
            "representative": None if self.representative is None else repr(self.representative),
        }

    def _real_rows(self, observer: Observer, real: RealImages, draw: Draw) -> list[Tensor]:
        """Return rows of the data, a tensor for each class: this rank's share of the real images of an iteration."""
        if self.representative is None:
            return draw_rows(real, self.real_batch, draw)
        return self.representative.choose(real.class_rows, lambda rows: self._embeddings(observer, real, rows), draw)

    @torch.no_grad()
    def _embeddings(self, observer: Observer, real: RealImages, rows: Tensor) -> Tensor:
        # Small chunks would give noisy statistics, so BatchNorm gets as many images in training mode as in the
        # matching.
        whole = any(layer.training for layer in batch_norm_layers(observer))
        dtype, embeddings = next(observer.parameters()).dtype, []
        for batch in torch.split(rows, self.real_batch):
            images = real.pixels(batch).to(dtype)
            embeddings += [embed(observer, chunk) for chunk in ([images] if whole else self._chunks(images))]
        return torch.cat(embeddings)

    def _view(self, images: Tensor, label: int, draw: Draw) -> Tensor:
        """Augment images of a class with parameters that depend only on the class and the iteration."""
        if self.augment is None or not len(images):
            return images
        view: Tensor = self.augment(images, self.augment.sample(1, draw.generator(f"augment/{label}")))
        return view

    def _learned(self, images: Tensor, labels: Tensor, label: int, draw: Draw) -> Tensor:
        """Return the view of the learned images of a class, with their mirror images if ``mirrored``."""
        of_class = images[(labels == label).nonzero().flatten().to(images.device)]
        return self._view(torch.cat([of_class, mirror(of_class)]) if self.mirrored else of_class, label, draw)

    def _chunks(self, images: Tensor) -> tuple[Tensor, ...]:
        return torch.split(images, self.chunk or max(1, CHUNK_PIXELS // (images.shape[2] * images.shape[3])))


def embed(observer: Observer, images: Tensor) -> Tensor:
    """Return the embeddings of images, computed in the fastest memory format on a CPU.

    Args:
        observer: the network.
        images: ``(N, C, H, W)``, pixels in the units of [0, 1].
    """
    output = observer(images.contiguous(memory_format=torch.channels_last), embedding=True)
    return cast(Tensor, output.embedding)


def draw_rows(real: RealImages, per_class: int, draw: Draw) -> list[Tensor]:
    """Draw real images without replacement from every class.

    Args:
        real: the real images.
        per_class: images of each class, over all ranks; a smaller class gives all of its images.
        draw: the randomness of the iteration.

    Returns:
        Rows of the data, a tensor for each class: this rank's share.

    Example:
        >>> real = RealImages(lambda rows: rows, [torch.tensor([0, 1, 2]), torch.tensor([3])])
        >>> [[len(rows) for rows in draw_rows(real, 2, Draw(0, 0, rank, world_size=2))] for rank in (0, 1)]
        [[1, 1], [1, 0]]
    """
    chosen = draw_by_class(real.class_rows, [per_class] * len(real.class_rows), draw.generator("real"))
    return [rows[draw.rows] for rows in chosen]
