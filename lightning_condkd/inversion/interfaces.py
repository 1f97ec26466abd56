"""What an inversion method is given and returns: networks that can be asked for inner values, modes, losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

from torch import Tensor

from lightning_condkd.subclassing import RequestedOutput
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic

Selection = Literal["total_loss", "inversion_loss", "last"]
Source = Literal["bank", "live"]
Mode = Literal["eval", "train"]
StudentLoss = Literal["kl", "logits_l1", "attention"]


def check_mode(name: str, mode: Mode) -> Mode:
    """Return the mode of a network.

    Args:
        name: name of the argument.
        mode: ``eval`` or ``train``.

    Raises:
        ValueError: if it is neither.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"expected {name} 'eval' or 'train', got {mode!r}")
    return mode


class Observe(Protocol):
    """A network that can return inner values, such as :class:`lightning_condkd.models.Observer`."""

    def __call__(
        self,
        images: Tensor,
        *,
        embedding: bool = False,
        bn: bool = False,
        maps: Sequence[str] = (),
        channel_means: bool | Sequence[str] = False,
        batch_statistics: bool = False,
    ) -> NetworkOutput:
        """Return the logits and the requested inner values."""
        ...


class RequestedNetwork(NamedTuple):
    """A network whose outputs give access only to requested values, and to the embedding only if it was declared.

    Args:
        network: the network.
        method: name of the method that asks it, for the message.
        declared: whether the method has ``needs_embedding``.
    """

    network: Observe
    method: str
    declared: bool

    def __call__(self, images: Tensor, *, embedding: bool = False, **asked: Any) -> NetworkOutput:  # noqa: ANN401
        """Return the logits and the requested inner values.

        Raises:
            ValueError: if the embedding is requested and not declared.
        """
        if embedding and not self.declared:
            raise ValueError(f"{self.method}.loss asks for the embedding: set needs_embedding = True in the method")
        return RequestedOutput(*self.network(images, embedding=embedding, **asked))


class SynthesisLoss(NamedTuple):
    """Result of a synthesis step of a method, with its graph.

    Args:
        synthetic: result of :meth:`Inversion.render`.
        terms: the named terms.
        output: the teacher's output on the main view.
    """

    synthetic: Synthetic
    terms: LossTerms
    output: NetworkOutput
