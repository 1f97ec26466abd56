"""Base class of condensation methods, and access to real images."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, final

from torch import Tensor, nn

from lightning_condkd.messages import listed
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.randomness import Draw
from lightning_condkd.subclassing import FinalMethods, check_initialized
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


class CondensationMethod(FinalMethods, nn.Module, ABC):
    """Base of the methods that learn the pixels of a condensed set; plain PyTorch.

    State kept between iterations is a buffer or a frozen parameter; anything learned in addition to the pixels is a
    parameter.

    A subclass writes:

    - ``name``, ``pixel_lr`` and, in the constructor, ``networks``;
    - :meth:`losses`: the loss of an iteration; :meth:`settings`: the settings recorded in a file;
    - :meth:`make`, :meth:`check_classes`: checks and buffers that depend on the task, if any;
    - :meth:`parameter_groups`, :meth:`is_sound`: for parameters learned in addition to the pixels.

    The final :meth:`build` of the base checks that the networks fit the data, that no attribute is missing, that the
    settings can be written and that every parameter is learned. The first iteration is checked for gradients.

    Attributes:
        name: name of the method in the files that it makes.
        pixel_lr: published step size on normalised pixels; :class:`~lightning_condkd.modules.Condensation` multiplies
            it by the networks' squared standard deviation, which converts it to pixels in the units of [0, 1].
        networks: factory of the networks in which images are compared.
    """

    finals: ClassVar[Mapping[str, str]] = {"build": "make(image_shape, num_classes, ipc)"}
    name: str
    pixel_lr: float
    networks: FreshNetworks

    @final
    def build(self, image_shape: tuple[int, int, int], num_classes: int, ipc: int) -> None:
        """Check the method against the task, see :meth:`make`; called once, before the first iteration.

        Args:
            image_shape: ``(C, H, W)`` in pixels.
            num_classes: number of classes K.
            ipc: images per class.

        Raises:
            TypeError: if the method lacks an attribute, or its settings are no JSON values.
            ValueError: if the networks have another number of classes or do not accept such images, or a parameter is
                in no group.
        """
        check_initialized(self, "super().__init__()")
        self._check_attribute("networks", FreshNetworks, "FreshNetworks(network, mean, std), set in the constructor")
        self.networks.check(image_shape, num_classes)
        self.make(image_shape, num_classes, ipc)
        self._check_attribute("name", str, "what the method is called in files")
        self._check_attribute("pixel_lr", (int, float), "a step size on normalised pixels, such as 1.0")
        self._check_settings()
        self._check_groups()

    def make(self, image_shape: tuple[int, int, int], num_classes: int, ipc: int) -> None:
        """Check the task and create buffers that depend on it; nothing by default.

        Args:
            image_shape: ``(C, H, W)`` in pixels.
            num_classes: number of classes K.
            ipc: images per class.

        Raises:
            ValueError: if something does not fit.
        """

    def _check_attribute(self, name: str, kind: type | tuple[type, ...], expected: str) -> None:
        if not isinstance(got := getattr(self, name, None), kind):
            raise TypeError(f"{type(self).__name__}.{name}: expected {expected}, got {got!r}")

    def _check_settings(self) -> None:
        try:
            json.dumps(self.settings())
        except TypeError as error:
            cure = "return numbers, text, lists and dicts"
            raise TypeError(
                f"{type(self).__name__}.settings: a file could not record them ({error}): {cure}"
            ) from error

    def _check_groups(self) -> None:
        held = {id(parameter) for group in self.parameter_groups() for parameter in group["params"]}
        idle = [name for name, one in self.named_parameters() if one.requires_grad and id(one) not in held]
        if idle:
            raise ValueError(
                f"{type(self).__name__}.parameter_groups: no group holds {listed(idle)}: add it to one, or freeze it "
                "with requires_grad_(False)"
            )

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
