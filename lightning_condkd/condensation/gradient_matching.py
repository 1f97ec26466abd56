"""Gradient matching: distance of a network's loss gradients on real and on learned images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from lightning_condkd.augment import Augment, AugmentName
from lightning_condkd.condensation.base import RealImages
from lightning_condkd.condensation.parts.class_matching import MatchingMethod
from lightning_condkd.condensation.parts.representative_batches import RepresentativeBatches
from lightning_condkd.distributed import mean_over_ranks
from lightning_condkd.functional.augmentation import mirror
from lightning_condkd.functional.matching import GradientDistance, gradient_distance
from lightning_condkd.models.fresh_networks import FreshNetworks, normalize_by_batch
from lightning_condkd.models.taps import batch_norm_layers
from lightning_condkd.randomness import Draw, draw_by_class, seeded_generator
from lightning_condkd.types import LossTerms

PUBLISHED_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
NETWORK_LR, NETWORK_BATCH, STATISTICS_IMAGES = 0.01, 256, 16


class GradientMatching(MatchingMethod):
    """DC and DSA: match the gradients of a network's loss on real and on learned images, class by class.

    A network is kept for ``inner_steps`` iterations. Before each but the first it is trained for ``network_epochs`` on
    the current learned set: SGD, step size 0.01, no momentum, batches of 256 (official code). Then a new one with
    random weights replaces it. The published number of iterations is 1000 times ``inner_steps``.

    - **DC**: no augmentation. The official code starts from noise: ``init="noise"`` of the module.
    - **DSA**: ``augment="dsa"``, or ``"dsa_digits"`` without its flip; it starts from real images. Real and learned
      images of a class share the parameters; in the network's training each image has its own.
    - **FYI**: ``mirrored=True``; ``"dsa"`` then has no flip. The mirror images are matched, and the network is trained
      on them too. FYI's code keeps ``flip`` in another form: in addition to the drawn operator, on half of the batches.
      It also has a distance between gradients averaged with those of mirrored kernels, switched off in its recipes.
      Both are left out here.

    Dropout is off. BatchNorm has fixed statistics while gradients are matched: those of 16 new real images of each
    class in every iteration, the same on all ranks. The official code only updates the running statistics with these by
    the layer's momentum, one tenth. In the training of the network BatchNorm uses the statistics of the batch.

    Each class is a part of the loss, so only one second-order graph is in memory. Every rank trains the network.

    Args:
        networks: factory of the networks, which include the normalisation of the data.
        augment: ``None`` disables it (DC); ``dsa``, ``dsa_digits``, or an augmentation.
        real_batch: real images of each class in an iteration, over all ranks (official code 256).
        chunk: real images in a forward and backward pass; ``None`` for the number with the pixels of 32 images of
            32x32.
        distance: ``layerwise`` (official code), ``mse`` or ``cosine``, see
            :func:`~lightning_condkd.functional.matching.gradient_distance`.
        inner_steps: iterations T for which a network is kept; ``None`` for the published number, by images per class.
        network_epochs: epochs S of its training before an iteration; ``None`` likewise.
        mirrored: whether the mirror images of learned images are matched too (FYI).
        representative: choice of the real images (DREAM); ``None`` for new random ones in every iteration.

    Raises:
        ValueError: if a count is not positive, or there is no such distance.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> networks = FreshNetworks(lambda: ConvNet(2, image_size=8, depth=1, width=4))
        >>> method = GradientMatching(networks, real_batch=3)
        >>> method.build((3, 8, 8), num_classes=2, ipc=1)
        >>> images, labels = torch.rand(2, 3, 8, 8, requires_grad=True), torch.tensor([0, 1])
        >>> data = torch.rand(6, 3, 8, 8)
        >>> real = RealImages(lambda rows: data[rows], [torch.arange(3), torch.arange(3, 6)])
        >>> for terms in method.losses(images, labels, real, Draw(seed=0, step=0)):
        ...     terms.total().backward()
        >>> images.grad.shape
        torch.Size([2, 3, 8, 8])

    References:
        Zhao et al., "Dataset Condensation with Gradient Matching", arXiv 2006.05929.
        Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", arXiv 2102.08259.
    """

    name = "DC"
    pixel_lr = 0.1

    def __init__(
        self,
        networks: FreshNetworks,
        *,
        augment: AugmentName | Augment | None = None,
        real_batch: int = 256,
        chunk: int | None = None,
        distance: GradientDistance = "layerwise",
        inner_steps: int | None = None,
        network_epochs: int | None = None,
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
        for name, count in {"inner_steps": inner_steps, "network_epochs": network_epochs}.items():
            if count is not None and count < 1:
                raise ValueError(f"{name}: expected a positive number, got {count}")
        if distance not in get_args(GradientDistance):
            raise ValueError(f"distance: expected one of {', '.join(get_args(GradientDistance))}, got {distance!r}")
        if self.augment is not None:
            self.name = "DSA"
        self.distance, self.inner_steps, self.network_epochs = distance, inner_steps, network_epochs
        self.observer = self.networks.make(seeded_generator(0, "network")).requires_grad_(False)

    def make_more(self, ipc: int) -> None:
        """Look up the published numbers of ``inner_steps`` and ``network_epochs`` if they are not given.

        Args:
            ipc: images per class.

        Raises:
            ValueError: if none are published for the images per class.
        """
        if self.inner_steps is not None and self.network_epochs is not None:
            return
        if ipc not in PUBLISHED_LOOPS:
            raise ValueError(
                f"inner_steps and network_epochs are published for {', '.join(map(str, PUBLISHED_LOOPS))} images per "
                f"class, got ipc={ipc}: set both. Above 50 the authors advise 50 and 10, or 20 and 25; for DSA with "
                "100, they advise 100 and 2"
            )
        steps, epochs = PUBLISHED_LOOPS[ipc]
        self.inner_steps, self.network_epochs = self.inner_steps or steps, self.network_epochs or epochs

    def losses(self, images: Tensor, labels: Tensor, real: RealImages, draw: Draw) -> Iterator[LossTerms]:
        """Yield the distance of the gradients, one class at a time.

        Args:
            images: the learned pixels of the whole set, ``(N, C, H, W)``, in the units of [0, 1].
            labels: their classes, ``(N,)`` int64, on the CPU; every class has an image.
            real: the real images.
            draw: the randomness of the iteration.

        Raises:
            RuntimeError: if ``inner_steps`` and ``network_epochs`` are not known yet.
        """
        self._prepare(images.detach(), labels, real, draw)
        for label, rows in enumerate(self._real_rows(self.observer, real, draw)):
            expected = self._real_gradients(real.pixels(rows).to(images.dtype), label, draw)
            view = self._learned(images, labels, label, draw)
            gradients = self._gradients(view, _constant(label, view), create_graph=True)
            yield LossTerms({"matching": gradient_distance(expected, gradients, self.distance)}, {"matching": 1.0})

    def settings(self) -> dict[str, Any]:
        """Return the settings that a file of this method records."""
        loops = {"inner_steps": self.inner_steps, "network_epochs": self.network_epochs}
        return {**super().settings(), "distance": self.distance, **loops}

    def _prepare(self, images: Tensor, labels: Tensor, real: RealImages, draw: Draw) -> None:
        """Create or train the network for this iteration."""
        if self.inner_steps is None or self.network_epochs is None:
            raise RuntimeError("inner_steps and network_epochs are not known: call build before the first iteration")
        self.observer.to(images.device, images.dtype)
        if draw.step % self.inner_steps == 0:
            self.observer.load_state_dict(self.networks.make(draw.generator("network")).state_dict())
        else:
            self._train(images, labels.to(images.device), self.network_epochs, draw.generator("network training"))
        if self.networks.has_bn:
            self._fix_statistics(real, images.dtype, draw)
        self.observer.eval()

    def _train(self, images: Tensor, labels: Tensor, epochs: int, generator: torch.Generator) -> None:
        normalize_by_batch(self.observer)
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=generator).to(images.device)
            for rows in torch.split(order, NETWORK_BATCH):
                batch, classes = images[rows], labels[rows]
                if self.mirrored:
                    batch, classes = torch.cat([batch, mirror(batch)]), classes.repeat(2)
                if self.augment is not None:
                    batch = self.augment(batch, self.augment.sample(len(batch), generator))
                gradients = self._gradients(batch, classes)
                for parameter, gradient in zip(self.observer.parameters(), gradients, strict=True):
                    parameter.sub_(gradient, alpha=NETWORK_LR)

    @torch.no_grad()
    def _fix_statistics(self, real: RealImages, dtype: torch.dtype, draw: Draw) -> None:
        """Set the statistics of BatchNorm to those of one batch of real images of all classes."""
        generator = draw.generator("statistics")
        chosen = draw_by_class(real.class_rows, [STATISTICS_IMAGES] * len(real.class_rows), generator)
        layers = batch_norm_layers(normalize_by_batch(self.observer))
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches since the reset
        self.observer(real.pixels(torch.cat(chosen)).to(dtype))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum

    def _real_gradients(self, images: Tensor, label: int, draw: Draw) -> list[Tensor]:
        """Return the gradients of the mean loss of the real images of a class on all ranks."""
        view = self._view(images, label, draw)
        sums = [torch.zeros_like(parameter) for parameter in self.observer.parameters()]
        # A small class may have no image on this rank, so sums and counts are averaged over ranks instead of means.
        for chunk in self._chunks(view) if len(view) else ():
            gradients = self._gradients(chunk, _constant(label, chunk), reduction="sum")
            sums = [total + gradient for total, gradient in zip(sums, gradients, strict=True)]
        count = mean_over_ranks(torch.tensor(len(view)).to(sums[0]))
        return [mean_over_ranks(total) / count for total in sums]

    def _gradients(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        reduction: Literal["mean", "sum"] = "mean",
        create_graph: bool = False,
    ) -> tuple[Tensor, ...]:
        """Return the gradients of the loss, for copies of the network's parameters; with a graph if requested."""
        # New copies at every call: autocast would reuse weights that it cast before the network was trained.
        copies = {name: value.detach().requires_grad_() for name, value in self.observer.named_parameters()}
        logits = functional_call(self.observer, copies, (images,)).logits
        loss = F.cross_entropy(logits, labels, reduction=reduction)
        return torch.autograd.grad(loss, list(copies.values()), create_graph=create_graph)


def _constant(label: int, images: Tensor) -> Tensor:
    return torch.full((len(images),), label, device=images.device)
