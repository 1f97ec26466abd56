"""Mixup and CutMix between the images of a distillation batch, with explicitly drawn parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Beta

from lightning_condkd import distributed
from lightning_condkd.augment.base import AugmentParameters, take
from lightning_condkd.functional.cutmix import box_bounds, box_masks, box_shares
from lightning_condkd.precision import at_least_float32
from lightning_condkd.randomness import Draw, seeded_initialization, send


class Mixing(nn.Module, ABC):
    """Mixture of each image of a batch with another image of the batch, its partner.

    Function matching shows the same mixtures to teacher and student, and the teacher labels what it sees. Parameters
    are CPU tensors for the global batch, drawn from an explicit generator, so they depend neither on the device nor on
    the number of ranks. Partners are a random permutation of the batch; a few images may be their own partner.

    References:
        Beyer et al., "Knowledge Distillation: A Good Teacher is Patient and Consistent", arXiv 2106.05237.
    """

    @abstractmethod
    def sample_mixtures(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw how the images of a batch are mixed with their partners.

        Args:
            n: images in the global batch.
            generator: a CPU generator.

        Returns:
            CPU tensors with ``n`` rows each.
        """

    @abstractmethod
    def weights(self, parameters: AugmentParameters, image_size: tuple[int, int], device: torch.device) -> Tensor:
        """Return the share of the partner in each pixel, ``(N, 1, H or 1, W or 1)``.

        Args:
            parameters: from :meth:`sample`, with ``N`` rows.
            image_size: height and width in pixels.
            device: device of the result.
        """

    @abstractmethod
    def shares(self, parameters: AugmentParameters, image_size: tuple[int, int]) -> Tensor:
        """Return the share of the partner in each mixture, the mean of :meth:`weights`, ``(N,)`` float64 on the CPU.

        Args:
            parameters: from :meth:`sample`, with ``N`` rows.
            image_size: height and width in pixels.
        """

    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        """Draw the parameters of a batch: ``partner``, the row of each image's partner, and those of the mixtures.

        Args:
            n: images in the global batch.
            generator: a CPU generator.

        Returns:
            CPU tensors with ``n`` rows each.
        """
        return {"partner": torch.randperm(n, generator=generator), **self.sample_mixtures(n, generator)}

    def forward(self, images: Tensor, partners: Tensor, parameters: AugmentParameters) -> Tensor:
        """Return the mixtures.

        Args:
            images: ``(N, C, H, W)``, floating point pixels in the units of [0, 1].
            partners: the partner of each image, of the same shape.
            parameters: from :meth:`sample`, with ``N`` rows.

        Raises:
            ValueError: if the images are not floating point, or shapes or rows differ.
        """
        if not images.is_floating_point():
            raise ValueError(f"images: expected floating point in [0, 1], got {images.dtype}; divide uint8 by 255")
        if partners.shape != images.shape:
            raise ValueError(f"partners: expected {tuple(images.shape)} as the images, got {tuple(partners.shape)}")
        if (rows := len(parameters["partner"])) != len(images):
            raise ValueError(
                f"parameters: expected {len(images)} rows, got {rows}; slice them with take(parameters, rows)"
            )
        size = (images.shape[2], images.shape[3])
        own, other = at_least_float32(images), at_least_float32(partners)
        return torch.lerp(own, other, self.weights(parameters, size, images.device).to(own)).to(images.dtype)

    def mix(self, images: Tensor, draw: Draw, purpose: str) -> Tensor:
        """Return the mixtures of this rank's rows of a global batch.

        Partners may be rows of other ranks. With several ranks every call therefore sends the images of all ranks to
        all ranks, which hold a copy of the global batch for a moment.

        Args:
            images: local rows, ``(N / world_size, C, H, W)``, pixels in the units of [0, 1]. A gradient reaches images
                and partners with one rank, and is refused with several.
            draw: randomness of the step.
            purpose: name of the stream of parameters.

        Raises:
            ValueError: if images of several ranks have a gradient, or the ranks are not those of the process group.
        """
        if draw.world_size > 1 and images.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "images: no gradient crosses from rank to rank, got images that require one: detach() them"
            )
        parameters = self._drawn(len(images), draw, purpose)
        return self.forward(images, _partners(images, parameters, draw), take(parameters, draw.rows))

    def mix_labels(
        self, labels: Tensor, num_classes: int, image_size: tuple[int, int], draw: Draw, purpose: str
    ) -> Tensor:
        """Return the labels of the mixtures that :meth:`mix` makes with the same draw, ``(N / world_size, K)``.

        A label counts as much as its image: the weight in mixup, the exact area in CutMix.

        Args:
            labels: classes of the local rows, ``(N / world_size,)`` int64, all known, or probabilities
                ``(N / world_size, K)``. Classes are checked, which waits for a GPU.
            num_classes: number of classes K.
            image_size: height and width of the images in pixels.
            draw: randomness of the step.
            purpose: name of the stream of parameters.

        Raises:
            ValueError: if a label is no class, or the probabilities are not those of K classes.
        """
        own = _probabilities(labels, num_classes)
        parameters = self._drawn(len(labels), draw, purpose)
        share = send(self.shares(take(parameters, draw.rows), image_size).to(own.dtype), own.device)
        return torch.lerp(own, _partners(own, parameters, draw), share[:, None])

    def _drawn(self, rows: int, draw: Draw, purpose: str) -> AugmentParameters:
        return self.sample(rows * draw.world_size, draw.generator(purpose))


class _BetaMixing(Mixing):
    def __init__(self, alpha: float = 1.0, *, shared: bool = False) -> None:
        super().__init__()
        if not alpha > 0:
            raise ValueError(f"alpha: expected a positive parameter of the Beta distribution, got {alpha}")
        self.alpha, self.shared = alpha, shared

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"alpha={self.alpha}, shared={self.shared}"

    def _draw_shares(self, n: int, generator: torch.Generator) -> Tensor:
        with seeded_initialization(generator):  # torch draws from Beta distributions with the global generator alone
            parameter = torch.tensor(self.alpha, dtype=torch.float64)
            shares: Tensor = Beta(parameter, parameter).sample((n,))
        return shares


class Mixup(_BetaMixing):
    """Weighted mean of two images, the weights from a Beta distribution.

    Args:
        alpha: both parameters of the Beta distribution; 1 is uniform (code of function matching; published code of
            mixup 1, paper 0.1 to 0.4 on ImageNet).
        shared: whether all images of a batch have the same weight, as in the code of both; by default each has its own
            (our default).

    Raises:
        ValueError: if ``alpha`` is not positive.

    Example:
        >>> mixup, images = Mixup(), torch.rand(4, 3, 8, 8)
        >>> mixup.mix(images, Draw(seed=0, step=0), "mixing").shape
        torch.Size([4, 3, 8, 8])
        >>> mixup.mix_labels(torch.arange(4), 4, (8, 8), Draw(seed=0, step=0), "mixing").sum(1)
        tensor([1., 1., 1., 1.])

    References:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412 (and its code).
    """

    def sample_mixtures(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw ``share``, the weight of the partner, ``(n,)`` float64."""
        return {"share": self._draw_shares(1 if self.shared else n, generator).expand(n)}

    def weights(self, parameters: AugmentParameters, image_size: tuple[int, int], device: torch.device) -> Tensor:
        """Return the weight of the partner, ``(N, 1, 1, 1)``."""
        return send(parameters["share"], device)[:, None, None, None]

    def shares(self, parameters: AugmentParameters, image_size: tuple[int, int]) -> Tensor:
        """Return the weight of the partner, ``(N,)``."""
        return parameters["share"]


class CutMix(_BetaMixing):
    """Box of the partner pasted into each image at its own place, the area from a Beta distribution.

    Boxes have the aspect ratio of the image and lie on whole pixels. Their middle is anywhere in the image, and they
    are cut at its border.

    Args:
        alpha: both parameters of the Beta distribution of the box's share of the image before it is cut; 1 is uniform
            (paper).
        shared: whether all boxes of a batch have the same size and place, as in the published code; by default each
            has its own (our default).

    Raises:
        ValueError: if ``alpha`` is not positive.

    Example:
        >>> cutmix, images = CutMix(), torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8)
        >>> mixed = cutmix.mix(images, Draw(seed=0, step=0), "mixing")
        >>> sorted(mixed.unique().tolist())
        [0.0, 1.0, 2.0, 3.0]

    References:
        Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
        arXiv 1905.04899 (and its code).
    """

    def sample_mixtures(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw ``share``, the box's area before it is cut, ``(n,)``, and ``center``, ``(n, 2)`` in [0, 1), float64."""
        boxes = 1 if self.shared else n
        share = self._draw_shares(boxes, generator)
        center = torch.rand(boxes, 2, generator=generator, dtype=torch.float64)
        return {"share": share.expand(n), "center": center.expand(n, 2)}

    def weights(self, parameters: AugmentParameters, image_size: tuple[int, int], device: torch.device) -> Tensor:
        """Return 1 inside of the boxes and 0 outside, ``(N, 1, H, W)``."""
        bounds = box_bounds(parameters["share"], parameters["center"], image_size)
        return box_masks(send(bounds, device), image_size)[:, None]

    def shares(self, parameters: AugmentParameters, image_size: tuple[int, int]) -> Tensor:
        """Return the share of each box in the image, ``(N,)``."""
        return box_shares(box_bounds(parameters["share"], parameters["center"], image_size), image_size)


class RandomMixing(Mixing):
    """One of several mixings, drawn for each batch with equal probability.

    Args:
        mixings: the mixings to choose from; ``None`` for mixup and CutMix.

    Raises:
        ValueError: if there is none.

    Example:
        >>> RandomMixing([Mixup(0.2), CutMix()]).sample(2, torch.Generator().manual_seed(0))["choice"]
        tensor([1, 1])
    """

    def __init__(self, mixings: Sequence[Mixing] | None = None) -> None:
        super().__init__()
        given = (Mixup(), CutMix()) if mixings is None else mixings
        if not given:
            raise ValueError("mixings: expected at least one, such as [Mixup(), CutMix()], got none")
        for number, mixing in enumerate(given):
            self.add_module(str(number), mixing)

    @property
    def mixings(self) -> tuple[Mixing, ...]:
        """The mixings to choose from."""
        return tuple(child for child in self.children() if isinstance(child, Mixing))

    def sample_mixtures(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw ``choice``, the number of the mixing in all rows, ``(n,)``, and the parameters of that mixing."""
        choice = torch.randint(len(self.mixings), (1,), generator=generator)
        return {"choice": choice.expand(n), **self.mixings[int(choice)].sample_mixtures(n, generator)}

    def weights(self, parameters: AugmentParameters, image_size: tuple[int, int], device: torch.device) -> Tensor:
        """Return the weights of the chosen mixing."""
        return self._chosen(parameters).weights(parameters, image_size, device)

    def shares(self, parameters: AugmentParameters, image_size: tuple[int, int]) -> Tensor:
        """Return the shares of the chosen mixing."""
        return self._chosen(parameters).shares(parameters, image_size)

    def _chosen(self, parameters: AugmentParameters) -> Mixing:
        return self.mixings[int(parameters["choice"][0])]


def _partners(rows: Tensor, parameters: AugmentParameters, draw: Draw) -> Tensor:
    """Return the partners' rows of this rank's rows of a global batch."""
    everyone = rows if draw.world_size == 1 else distributed.gather_rows(rows)
    if len(everyone) != len(parameters["partner"]):
        raise ValueError(
            f"draw: expected world_size={len(everyone) // len(rows)}, the processes of the group, got {draw.world_size}"
        )
    return everyone[send(parameters["partner"][draw.rows], rows.device)]


def _probabilities(labels: Tensor, num_classes: int) -> Tensor:
    if labels.is_floating_point():
        if labels.shape != (len(labels), num_classes):
            raise ValueError(f"labels: expected probabilities (N, {num_classes}), got {tuple(labels.shape)}")
        return at_least_float32(labels)
    if labels.dim() != 1 or bool(((labels < 0) | (labels >= num_classes)).any()):
        raise ValueError(
            f"labels: expected classes (N,) from 0 to {num_classes - 1}, got {tuple(labels.shape)} with "
            f"{labels.min()} to {labels.max()}; fill in the teacher's predictions where they are unknown (-1)"
        )
    return F.one_hot(labels, num_classes).to(torch.promote_types(torch.get_default_dtype(), torch.float32))
