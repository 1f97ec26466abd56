"""Distribution matching: class means of embeddings in random networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_condkd.augment import Augment, AugmentName
from lightning_condkd.condensation.base import RealImages
from lightning_condkd.condensation.parts.class_matching import MatchingMethod, embed
from lightning_condkd.condensation.parts.representative_batches import RepresentativeBatches
from lightning_condkd.distributed import mean_over_ranks
from lightning_condkd.functional.matching import class_means, mean_embedding_distance
from lightning_condkd.models import Observer
from lightning_condkd.models.fresh_networks import FreshNetworks, normalize_by_batch
from lightning_condkd.randomness import Draw
from lightning_condkd.types import LossTerms


class DistributionMatching(MatchingMethod):
    """DM: match the mean embedding of real and of learned images, class by class, in a new random network every time.

    The network is never trained. Real and learned images of a class get the same augmentation with the same parameters.
    Real images need no graph and run in chunks that stay in the cache; with BatchNorm all classes run as one batch, and
    its statistics are those of one rank. Dropout is off. The published step size is 1 on normalised pixels; its authors
    use 10 from 100 images per class on (CIFAR-10): set ``learning_rate`` of the module for that.

    Args:
        networks: factory of the networks, which include the normalisation of the data.
        augment: ``dsa`` (official code), without its flip if ``mirrored``, which replaces it; ``dsa_digits``, without
            flip; an augmentation; or ``None``, which disables it.
        real_batch: real images of each class in an iteration, over all ranks (official code 256).
        chunk: real images in a forward pass; ``None`` for the number with the pixels of 32 images of 32x32, which was
            the fastest on a CPU with 128 channels.
        classes_per_part: number of classes with a graph in memory at a time; ``None`` for 10 (our default).
        mirrored: whether the mirror images of learned images are matched too (FYI).
        representative: choice of the real images (DREAM), by embeddings in the current network; ``None`` for new random
            ones in every iteration.

    Raises:
        ValueError: if a count is not positive, or parts or chunks are set with BatchNorm.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> networks = FreshNetworks(lambda: ConvNet(2, image_size=8, depth=1, width=4))
        >>> method = DistributionMatching(networks, real_batch=3)
        >>> images, labels = torch.rand(2, 3, 8, 8, requires_grad=True), torch.tensor([0, 1])
        >>> data = torch.rand(6, 3, 8, 8)
        >>> real = RealImages(lambda rows: data[rows], [torch.arange(3), torch.arange(3, 6)])
        >>> for terms in method.losses(images, labels, real, Draw(seed=0, step=0)):
        ...     terms.total().backward()
        >>> images.grad.shape
        torch.Size([2, 3, 8, 8])

    References:
        Zhao and Bilen, "Dataset Condensation with Distribution Matching", arXiv 2110.04181.
    """

    name = "DM"
    pixel_lr = 1.0

    def __init__(
        self,
        networks: FreshNetworks,
        *,
        augment: AugmentName | Augment | None = "dsa",
        real_batch: int = 256,
        chunk: int | None = None,
        classes_per_part: int | None = None,
        mirrored: bool = False,
        representative: RepresentativeBatches | None = None,
    ) -> None:
        super().__init__(
            networks,
            augment=augment,
            real_batch=real_batch,
            chunk=chunk,
            mirrored=mirrored,
            representative=representative,
        )
        if classes_per_part is not None and classes_per_part < 1:
            raise ValueError(f"classes_per_part: expected a positive number, got {classes_per_part}")
        for name, count in {"classes_per_part": classes_per_part, "chunk": chunk}.items():
            if count is not None and self.networks.has_bn:
                raise ValueError(f"{name}: BatchNorm needs all images in one batch; leave it out")
        self.classes_per_part = classes_per_part or 10

    def losses(self, images: Tensor, labels: Tensor, real: RealImages, draw: Draw) -> Iterator[LossTerms]:
        """Yield the squared distance of the class means, summed over some classes at a time.

        Args:
            images: the learned pixels of the whole set, ``(N, C, H, W)``, in the units of [0, 1].
            labels: their classes, ``(N,)`` int64, on the CPU; every class has an image.
            real: the real images.
            draw: the randomness of the iteration.
        """
        observer = normalize_by_batch(self.networks.make(draw.generator("network")).requires_grad_(False))
        observer.to(images.device, images.dtype).to(memory_format=torch.channels_last)
        rows = self._real_rows(observer, real, draw)
        size = len(rows) if self.networks.has_bn else self.classes_per_part
        for part in torch.split(torch.arange(len(rows)), size):
            classes = part.tolist()
            real_means = self._real_means(observer, [real.pixels(rows[label]) for label in classes], classes, draw)
            learned = [self._learned(images, labels, label, draw) for label in classes]
            distance = mean_embedding_distance(real_means, _means(embed(observer, torch.cat(learned)), learned))
            yield LossTerms({"matching": distance}, {"matching": 1.0})

    @torch.no_grad()
    def _real_means(self, observer: Observer, images: list[Tensor], classes: list[int], draw: Draw) -> Tensor:
        dtype = next(observer.parameters()).dtype
        views = [self._view(of_class.to(dtype), label, draw) for of_class, label in zip(images, classes, strict=True)]
        chunks = [torch.cat(views)] if self.networks.has_bn else self._chunks(torch.cat(views))
        embeddings = torch.cat([embed(observer, chunk) for chunk in chunks])
        counts = torch.tensor([len(view) for view in views]).to(embeddings)[:, None]
        # A small class may have no image on this rank, so sums and counts are averaged over ranks instead of means.
        sums = torch.where(counts > 0, _means(embeddings, views) * counts, 0)
        return mean_over_ranks(sums) / mean_over_ranks(counts)


def _means(embeddings: Tensor, of_classes: Sequence[Tensor]) -> Tensor:
    """Return the mean embedding of each class; images of a class are adjacent."""
    counts = torch.tensor([len(of_class) for of_class in of_classes])
    labels = torch.arange(len(counts)).repeat_interleave(counts).to(embeddings.device)
    return class_means(embeddings, labels, len(counts))
