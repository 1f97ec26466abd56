"""Base class of augmentations: parameters are drawn from an explicit generator, then applied differentiably."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_condkd.randomness import Draw

AugmentParameters = Mapping[str, Tensor]


def take(parameters: AugmentParameters, rows: slice | Tensor) -> AugmentParameters:
    """Return the parameters of some images of the batch.

    Args:
        parameters: tensors with one leading row for each image.
        rows: which images, e.g. ``Draw.rows``.

    Example:
        >>> take({"flip": torch.tensor([True, False, True])}, slice(1, None, 2))
        {'flip': tensor([False])}
    """
    return {name: values[rows] for name, values in parameters.items()}


class Augment(nn.Module, ABC):
    """Differentiable augmentation of images in the units of [0, 1], in two steps: draw, then apply.

    Parameters are CPU tensors for the global batch, so they depend neither on the device nor on the number of ranks.
    The same parameters can be applied to several batches; one row is applied to every image of a batch of any size,
    which is the siamese use.
    """

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        """Draw the parameters of a batch.

        Args:
            n: images in the global batch; 1 for one draw that all images share.
            generator: a CPU generator.

        Returns:
            CPU tensors with ``n`` rows each.
        """

    @abstractmethod
    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Apply checked parameters; a subclass implements this."""

    def forward(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Apply drawn parameters.

        Args:
            images: ``(N, C, H, W)``, floating point pixels in the units of [0, 1]; they may leave that interval.
            parameters: from :meth:`sample`, with ``N`` rows or with one.

        Raises:
            ValueError: if the images are not floating point, or the rows do not fit the batch.
        """
        if not images.is_floating_point():
            raise ValueError(f"images: expected floating point in [0, 1], got {images.dtype}; divide uint8 by 255")
        rows = {len(values) for values in parameters.values()}
        if not rows <= {1, len(images)}:
            expected = f"expected 1 or {len(images)} rows, got {sorted(rows)}"
            raise ValueError(f"parameters: {expected}; slice them with take(parameters, rows)")
        return self.transform(images, parameters)

    def view(self, images: Tensor, draw: Draw, purpose: str) -> Tensor:
        """Return a random view of this rank's rows of a global batch.

        Args:
            images: local rows, ``(N / world_size, C, H, W)``, pixels in the units of [0, 1].
            draw: randomness of the step.
            purpose: name of the stream of parameters.
        """
        parameters = self.sample(len(images) * draw.world_size, draw.generator(purpose))
        return self.forward(images, take(parameters, draw.rows))
