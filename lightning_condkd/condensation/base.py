"""Base class of condensation methods, and their access to real images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.randomness import Draw
from lightning_condkd.types import LossTerms


class RealImages(NamedTuple):
    """Access to the real images by row.

    Args:
        pixels: function from rows of the data, ``(M,)`` int64, to images ``(M, C, H, W)``, pixels in the units of
            [0, 1], on the training device.
        class_rows: rows of each class.
    """

    pixels: Callable[[Tensor], Tensor]
    class_rows: Sequence[Tensor]


class CondensationMethod(nn.Module, ABC):
    """Base of the methods that learn the pixels of a condensed set; plain PyTorch.

    What a method must remember from one iteration to the next is a buffer or a frozen parameter. What it learns beside
    the pixels is a parameter.

    Attributes:
        name: name of the method in the files that it makes.
        pixel_lr: published step size on normalised pixels; :class:`~lightning_condkd.modules.Condensation` multiplies
            it by the networks' squared standard deviation, which converts it to pixels in the units of [0, 1].
        networks: makes the networks through which images are compared.
    """

    name: str
    pixel_lr: float
    networks: FreshNetworks

    def build(self, image_shape: tuple[int, int, int], num_classes: int, ipc: int) -> None:
        """Check and size what depends on the task; called once, before the first iteration.

        Args:
            image_shape: ``(C, H, W)`` in pixels.
            num_classes: number of classes K.
            ipc: images per class.

        Raises:
            ValueError: if the networks have another number of classes, or cannot read such images.
        """
        self.networks.check(image_shape, num_classes)

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Check the names of the classes; called after :meth:`build`.

        Args:
            class_names: class names of the data, in the order of the labels.
        """

    @abstractmethod
    def losses(self, images: Tensor, labels: Tensor, real: RealImages, draw: Draw) -> Iterator[LossTerms]:
        """Yield the loss of one iteration in parts that add up to it.

        The caller computes the gradient of a part before it requests the next, so only one graph is in memory. Every
        rank yields the same parts.

        Args:
            images: the learned pixels of the whole set, ``(N, C, H, W)``, in the units of [0, 1].
            labels: their classes, ``(N,)`` int64, on the CPU; every class has an image.
            real: the real images.
            draw: the randomness of the iteration, whose number is ``draw.step``; the same on all ranks.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings that a file of this method records, JSON values only."""

    def is_sound(self) -> bool:
        """Return whether learned values other than the pixels can be used; if not, the last step is undone."""
        return True

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return further groups for the optimizer, in addition to that of the pixels."""
        return []
