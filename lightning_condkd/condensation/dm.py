"""Distribution matching: class means in the embedding of random networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_condkd.augment import Augment, SiameseAugment
from lightning_condkd.condensation.base import CondensationMethod, RealBatch
from lightning_condkd.distributed import mean_over_ranks
from lightning_condkd.functional.matching import class_means, mean_embedding_distance
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw, seeded_initialisation
from lightning_condkd.types import LossTerms

_CHUNK_PIXELS = 32 * 32 * 32


class DistributionMatching(CondensationMethod):
    """DM: match the mean embedding of real and of learned images, class by class, in a new random network every time.

    The network is never trained. Real and learned images of a class go through the same augmentation with the same
    parameters. The real side needs no graph and runs in chunks that stay in the cache; with BatchNorm it runs whole,
    and its statistics are those of one rank.

    Args:
        network: makes a new network with random weights at every call, such as a class or a ``functools.partial``.
        mean: what the network is to subtract from each channel, in the units of [0, 1]; ``None`` for nothing.
        std: likewise what it is to divide by.
        augment: ``None`` for all of :class:`~lightning_condkd.augment.SiameseAugment`, as in the official code.
        real_batch: real images of each class in an iteration, over all ranks (official code 256).
        chunk: real images in a forward pass; ``None`` for as many as have the pixels of 32 images of 32x32, which was
            the fastest on a CPU with 128 channels.

    Raises:
        ValueError: if the network is the same object at every call, or a count is not positive.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> method = DistributionMatching(lambda: ConvNet(2, image_size=8, depth=1, width=4), real_batch=3)
        >>> images, labels = torch.rand(2, 3, 8, 8, requires_grad=True), torch.tensor([0, 1])
        >>> real = RealBatch(torch.rand(6, 3, 8, 8), torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> method.loss(images, labels, real, Draw(seed=0, step=0)).total().backward()
        >>> images.grad.shape
        torch.Size([2, 3, 8, 8])

    References:
        Zhao and Bilen, "Dataset Condensation with Distribution Matching", arXiv 2110.04181.
    """

    name = "DM"

    def __init__(
        self,
        network: Callable[[], nn.Module],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        augment: Augment | None = None,
        real_batch: int = 256,
        chunk: int | None = None,
    ) -> None:
        super().__init__(real_batch)
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk: expected a positive number of images, got {chunk}")
        self.network, self.mean, self.std, self.chunk = network, mean, std, chunk
        self.augment = SiameseAugment() if augment is None else augment
        first = self._make(Draw(seed=0, step=0))
        if first.network is self._make(Draw(seed=0, step=0)).network:
            raise ValueError("network: expected a new network at every call, got the same object; pass its class")
        self._network_name = type(first.network).__name__

    def loss(self, images: Tensor, labels: Tensor, real: RealBatch, draw: Draw) -> LossTerms:
        """Return the squared distance of the class means, summed over classes.

        Args:
            images: the learned pixels of the whole set, ``(N, C, H, W)``, in the units of [0, 1].
            labels: their classes, ``(N,)`` int64, on the CPU; every class has an image.
            real: real images, this rank's share of the draw.
            draw: the randomness of the iteration; the same on all ranks but for the share.
        """
        num_classes = int(labels.max()) + 1
        observer = self._make(draw).to(images.device, images.dtype)
        observer.to(memory_format=torch.channels_last)
        real_means = self._real_means(observer, real, num_classes, draw)
        learned = self._embed(observer, self._view(images, labels, draw))
        distance = mean_embedding_distance(real_means, class_means(learned, labels.to(images.device), num_classes))
        return LossTerms({"matching": distance}, {"matching": 1.0})

    def settings(self) -> dict[str, Any]:
        """Return what a file of this method records."""
        return {
            "network": self._network_name,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "augment": repr(self.augment),
            "real_batch": self.real_batch,
        }

    def _make(self, draw: Draw) -> Observer:
        with seeded_initialisation(draw.generator("network")):
            network = self.network()
        return Observer(network, self.mean, self.std).requires_grad_(False).train()

    @torch.no_grad()
    def _real_means(self, observer: Observer, real: RealBatch, num_classes: int, draw: Draw) -> Tensor:
        images = self._view(real.images.to(next(observer.parameters()).dtype), real.labels, draw)
        size = len(images) if observer.bn_channels else self.chunk or max(1, _CHUNK_PIXELS // images[0, 0].numel())
        embeddings = torch.cat([self._embed(observer, chunk) for chunk in torch.split(images, size)])
        counts = torch.bincount(real.labels, minlength=num_classes).to(embeddings)[:, None]
        means = class_means(embeddings, real.labels.to(embeddings.device), num_classes)
        # A small class may have no image on this rank; sums and counts are what can be averaged over ranks.
        sums = torch.where(counts > 0, means * counts, 0)
        return mean_over_ranks(sums) / mean_over_ranks(counts)

    def _view(self, images: Tensor, labels: Tensor, draw: Draw) -> Tensor:
        """Augment each class by parameters of its own, which depend on nothing but the class and the iteration."""
        view = torch.empty_like(images)
        for label in sorted(set(labels.tolist())):
            rows = (labels == label).nonzero().flatten().to(images.device)
            parameters = self.augment.sample(1, draw.generator(f"augment/{label}"))
            view = view.index_copy(0, rows, self.augment(images[rows], parameters))
        return view

    def _embed(self, observer: Observer, images: Tensor) -> Tensor:
        output = observer(images.contiguous(memory_format=torch.channels_last), embedding=True)
        return cast(Tensor, output.embedding)
