"""Discriminators between embeddings of condensed and synthetic images, with or without the class.

The paper specifies only that its discriminator is conditional; form, sizes and regularisation are our choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lightning_condkd.randomness import seeded_initialization
from lightning_condkd.subclassing import FinalMethods, check_initialized

Layer = TypeVar("Layer", nn.Linear, nn.Embedding)


class DiscriminatorOutput(NamedTuple):
    """Output of a discriminator for a batch.

    Args:
        realness: logits, positive for condensed, ``(N,)``.
        class_logits: ``(N, K)``; ``None`` without a class head.
    """

    realness: Tensor
    class_logits: Tensor | None = None


def _bounded(layer: Layer) -> Layer:
    spectral_norm(layer)
    return layer


class Discriminator(FinalMethods, nn.Module):
    """A multi-layer perceptron with spectral norm on every linear map, LeakyReLU 0.2, and a realness head.

    It has no BatchNorm, whose statistics would distinguish the two batches. It is small, so autocast is off inside,
    and its norms and logits are not rounded.

    A subclass writes :meth:`score`, and :meth:`build_heads` for further layers. The final methods of the base:
    :meth:`build` creates all layers from one seed, :meth:`forward` checks the output.

    Args:
        hidden: widths of the hidden layers (our default).

    Raises:
        ValueError: if there is no hidden layer or a width is not positive.

    Attributes:
        class_weight: weight of the class terms relative to the realness terms.
        class_loss_on_synthetic: whether the class head learns from synthetic samples too.

    References:
        Miyato et al.: "Spectral Normalization for Generative Adversarial Networks", arXiv 1802.05957.
    """

    finals: ClassVar[Mapping[str, str]] = {
        "build": "build_heads(width, num_classes)",
        "forward": "score(features, realness, labels)",
    }
    class_weight: float = 0.0
    class_loss_on_synthetic: bool = False

    def __init__(self, hidden: Sequence[int] = (512, 256)) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden: expected at least one positive width, got {list(hidden)}; try [512, 256].")
        self.hidden = tuple(hidden)
        self.body = nn.Sequential()
        self.realness: nn.Linear

    @final
    def build(self, embedding_size: int, num_classes: int, generator: torch.Generator) -> None:
        """Create the layers on the CPU; a second call replaces them.

        Args:
            embedding_size: width D of the embedding.
            num_classes: number of classes K.
            generator: CPU generator of all initial values.
        """
        check_initialized(self, "super().__init__(hidden)")
        with seeded_initialization(generator):
            self.body = nn.Sequential()
            for width_in, width_out in pairwise((embedding_size, *self.hidden)):
                self.body.extend([_bounded(nn.Linear(width_in, width_out)), nn.LeakyReLU(0.2)])
            self.realness = _bounded(nn.Linear(self.hidden[-1], 1))
            self.build_heads(self.hidden[-1], num_classes)

    def build_heads(self, width: int, num_classes: int) -> None:
        """Create further heads besides the realness head; none by default.

        Args:
            width: size of the last hidden layer.
            num_classes: number of classes K.
        """

    @final  # type: ignore[misc]  # torch declares it as an attribute
    def forward(self, embedding: Tensor, labels: Tensor) -> DiscriminatorOutput:
        """Score a batch.

        Args:
            embedding: ``(N, D)``.
            labels: intended classes of the samples, ``(N,)`` int64.

        Raises:
            RuntimeError: before :meth:`build`.
            TypeError: if :meth:`score` returns a wrong type.
        """
        if not len(self.body):
            raise RuntimeError(
                f"{type(self).__name__}: expected layers, got none; "
                "call build(embedding_size, num_classes, generator) before the first use."
            )
        with torch.autocast(embedding.device.type, enabled=False):
            features = self.body(embedding.to(self.realness.bias.dtype))
            output = self.score(features, self.realness(features).squeeze(1), labels)
        self._check(output, len(embedding))
        return output

    def _check(self, output: object, rows: int) -> None:
        hook = f"{type(self).__name__}.score"
        if not isinstance(output, DiscriminatorOutput):
            raise TypeError(f"{hook}: expected DiscriminatorOutput(realness), got {type(output).__name__}")
        if output.realness.shape != (rows,):
            raise TypeError(f"{hook}: expected realness of shape {(rows,)}, got {tuple(output.realness.shape)}")

    def score(self, features: Tensor, realness: Tensor, labels: Tensor) -> DiscriminatorOutput:
        """Return the output, given the last hidden layer; the unchanged realness by default.

        Args:
            features: last hidden layer, ``(N, H)``.
            realness: logits of the realness head, ``(N,)``.
            labels: ``(N,)`` int64.
        """
        return DiscriminatorOutput(realness)


class UnconditionalDiscriminator(Discriminator):
    """Discriminator without classes, for ablations.

    Args:
        hidden: widths of the hidden layers (our default).

    Example:
        >>> discriminator = UnconditionalDiscriminator(hidden=(8,))
        >>> discriminator.build(4, 10, torch.Generator().manual_seed(0))
        >>> discriminator(torch.zeros(3, 4), torch.tensor([0, 1, 2])).realness.shape
        torch.Size([3])
    """


class ACGANDiscriminator(Discriminator):
    """Discriminator with a class head: condensed samples train it, and synthetic samples are trained to satisfy it.

    The realness does not depend on the class.

    Args:
        hidden: widths of the hidden layers (our default).
        class_weight: weight of the class terms relative to the realness terms (our default).
        class_loss_on_synthetic: whether the class head learns from synthetic samples too, as in AC-GAN. Off by default,
            because early synthetic samples do not show their labels' classes yet.

    Example:
        >>> discriminator = ACGANDiscriminator(hidden=(8,))
        >>> discriminator.build(4, 10, torch.Generator().manual_seed(0))
        >>> discriminator(torch.zeros(3, 4), torch.tensor([0, 1, 2])).class_logits.shape
        torch.Size([3, 10])

    References:
        Odena et al.: "Conditional Image Synthesis with Auxiliary Classifier GANs", arXiv 1610.09585.
    """

    def __init__(
        self, hidden: Sequence[int] = (512, 256), class_weight: float = 1.0, class_loss_on_synthetic: bool = False
    ) -> None:
        super().__init__(hidden)
        self.class_weight = class_weight
        self.class_loss_on_synthetic = class_loss_on_synthetic
        self.class_head: nn.Linear

    def build_heads(self, width: int, num_classes: int) -> None:
        """Create the class head, see :meth:`Discriminator.build_heads`."""
        self.class_head = _bounded(nn.Linear(width, num_classes))

    def score(self, features: Tensor, realness: Tensor, labels: Tensor) -> DiscriminatorOutput:
        """Return the realness and the class logits, see :meth:`Discriminator.score`."""
        return DiscriminatorOutput(realness, self.class_head(features))


class ProjectionDiscriminator(Discriminator):
    """Discriminator of realness given the class: ``v . h + <e_y, h>`` with last hidden layer h and class vector e_y.

    Args:
        hidden: widths of the hidden layers (our default).

    Example:
        >>> discriminator = ProjectionDiscriminator(hidden=(8,))
        >>> discriminator.build(4, 10, torch.Generator().manual_seed(0))
        >>> features = torch.ones(2, 4)
        >>> as_zero, as_one = discriminator(features, torch.tensor([0, 1])).realness
        >>> bool(as_zero == as_one)
        False

    References:
        Miyato and Koyama: "cGANs with Projection Discriminator", arXiv 1802.05637.
    """

    def __init__(self, hidden: Sequence[int] = (512, 256)) -> None:
        super().__init__(hidden)
        self.label_embedding: nn.Embedding

    def build_heads(self, width: int, num_classes: int) -> None:
        """Create the embedding of the labels, see :meth:`Discriminator.build_heads`."""
        self.label_embedding = _bounded(nn.Embedding(num_classes, width))

    def score(self, features: Tensor, realness: Tensor, labels: Tensor) -> DiscriminatorOutput:
        """Return the realness given the label, see :meth:`Discriminator.score`."""
        return DiscriminatorOutput(realness + (self.label_embedding(labels) * features).sum(1))
