"""Base class of alignments: what draws synthetic samples toward condensed ones in the teacher's feature space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_condkd.augment import Augment
from lightning_condkd.randomness import Draw
from lightning_condkd.subclassing import FinalMethods, RequestedOutput, check_initialized
from lightning_condkd.types import LossTerms, NetworkOutput, TaskSpec


class Alignment(FinalMethods, nn.Module):
    """Base of the terms that are added to an inversion's loss and compare synthetic samples with condensed ones.

    An alignment is plain PyTorch, independent of trainer and data. Every synthesis step asks the teacher for what
    :meth:`asks` names, and adds :meth:`forward` to the method's loss. A subclass writes :meth:`loss`, and one of these:

    - with ``needs_condensed``, the loss compares with all condensed samples, which :meth:`remember` keeps;
    - with :meth:`optimizer`, a network of its own is trained after every synthesis step to tell condensed samples
      of the same classes from the synthetic ones, by :meth:`discriminator_loss`.

    Further hooks: :meth:`make` creates parameters, :meth:`features` chooses what is compared, :meth:`accuracy` returns
    values for the logs. The final methods of the base keep the promises: :meth:`forward` gives access only to what was
    asked for.

    Args:
        weight: factor of the terms; 0 disables alignment.
        ramp_rounds: rounds over which the weight rises from 0 to its value; 0 for the full weight from the start.
        augment: differentiable augmentation of condensed and synthetic images before the teacher sees them for the
            alignment; ``None`` uses the view of the inversion.

    Raises:
        ValueError: if the weight or the number of rounds is negative.

    Attributes:
        needs_condensed: whether :meth:`loss` compares with all condensed samples.
    """

    finals: ClassVar[Mapping[str, str]] = {
        "build": "make(spec, generator)",
        "forward": "loss(output, labels, ramp, draw)",
        "remember": "needs_condensed = True, and read self.condensed in loss",
    }
    needs_condensed: bool = False

    def __init__(self, weight: float, ramp_rounds: int = 0, augment: Augment | None = None) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight: expected zero (no alignment) or a positive number, got {weight}.")
        if ramp_rounds < 0:
            raise ValueError(f"ramp_rounds: expected a count of rounds, 0 for no ramp, got {ramp_rounds}.")
        self.weight, self.ramp_rounds, self.augment = weight, ramp_rounds, augment
        self._condensed: tuple[object, NetworkOutput, Tensor] | None = None

    @property
    def active(self) -> bool:
        """Return whether alignment takes part in training."""
        return self.weight != 0

    @final
    def build(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create parameters on the CPU, see :meth:`make`; a second call replaces them.

        Args:
            spec: sizes of the task.
            generator: CPU generator of all initial values.
        """
        check_initialized(self, "super().__init__(weight)")
        self._condensed, self._num_classes = None, spec.num_classes
        self.make(spec, generator)

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create parameters on the CPU; none by default.

        Args:
            spec: sizes of the task.
            generator: CPU generator of all initial values.
        """

    def optimizer(self) -> Optimizer | None:
        """Return what :meth:`discriminator_loss` trains by, after :meth:`build`; ``None``, the default, without one."""
        return None

    def asks(self, network: nn.Module) -> dict[str, Any]:
        """Return the arguments by which the teacher's forward pass returns what is compared; by default the embedding.

        Args:
            network: the teacher's network.

        Raises:
            ValueError: if the network has no such values.
        """
        return {"embedding": True}

    def features(self, output: NetworkOutput) -> Tensor:
        """Return what is compared, ``(N, D)``; by default the embedding.

        Args:
            output: the teacher's output.
        """
        return cast(Tensor, output.embedding)

    @final  # type: ignore[misc]  # torch declares it as an attribute
    def forward(self, output: NetworkOutput, labels: Tensor, round: int, draw: Draw) -> LossTerms:
        """Return the terms of synthetic samples, see :meth:`loss`.

        Args:
            output: the teacher's output on this rank's synthetic images, with a graph.
            labels: their classes, ``(N,)`` int64.
            round: index of the round, from 0, for the ramp.
            draw: randomness of the step.

        Raises:
            RuntimeError: if the condensed samples are needed and :meth:`remember` was not called.
            TypeError: if :meth:`loss` returns a wrong type.
        """
        ramp = min(1.0, round / self.ramp_rounds) if self.ramp_rounds else 1.0
        terms: object = self.loss(RequestedOutput(*output), labels, ramp, draw)
        if not isinstance(terms, LossTerms):
            raise TypeError(
                f"{type(self).__name__}.loss: expected LossTerms(terms, weights), got {type(terms).__name__}"
            )
        return terms

    def loss(self, output: NetworkOutput, labels: Tensor, ramp: float, draw: Draw) -> LossTerms:
        """Return the named terms of synthetic samples, such as ``alignment``, and their weights.

        Args:
            output: the teacher's output on this rank's synthetic images, with a graph.
            labels: their classes, ``(N,)`` int64.
            ramp: factor of all weights, in [0, 1], see ``ramp_rounds``.
            draw: randomness of the step.
        """
        raise NotImplementedError(f"{type(self).__name__}.loss: write the terms that synthetic samples minimise")

    def discriminator_loss(self, condensed: Tensor, synthetic: Tensor, labels: Tensor) -> LossTerms:
        """Return the loss of the optimizer, for an alignment that has one; no gradient may reach the features.

        Args:
            condensed: features of condensed images, ``(N, D)``.
            synthetic: features of synthetic images, ``(N, D)``.
            labels: classes of both, ``(N,)`` int64.
        """
        raise NotImplementedError(f"{type(self).__name__}.discriminator_loss: write what its optimizer minimises")

    def accuracy(self, condensed: Tensor, synthetic: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return values for the logs before the optimizer's step; none by default.

        Args:
            condensed: features of condensed images, ``(N, D)``.
            synthetic: features of synthetic images, ``(N, D)``.
            labels: classes of both, ``(N,)`` int64.
        """
        return {}

    @property
    def trained(self) -> nn.Module:
        """The module whose parameters the optimizer trains."""
        return self

    def lacks(self, source: object) -> bool:
        """Return whether :meth:`remember` has to be called with the samples of a source.

        Args:
            source: the condensed set, or any other object that stands for the samples.
        """
        return self.needs_condensed and (self._condensed is None or self._condensed[0] is not source)

    @final
    @torch.no_grad()
    def remember(self, source: object, output: NetworkOutput, labels: Tensor) -> None:
        """Keep the condensed samples that synthetic ones are compared with.

        They are a function of teacher and condensed set, so they are in no checkpoint.

        Args:
            source: the condensed set, or any other object that stands for the samples.
            output: the teacher's output on all condensed images, with what :meth:`asks` names.
            labels: their classes, ``(M,)`` int64.
        """
        self._condensed = source, NetworkOutput(*output), labels

    @property
    def condensed(self) -> tuple[NetworkOutput, Tensor]:
        """The teacher's output on all condensed images, and their classes.

        Raises:
            RuntimeError: before :meth:`remember`.
        """
        if self._condensed is None:
            raise RuntimeError(
                f"{type(self).__name__} has no condensed samples to compare with: call remember(source, output, "
                "labels) with the teacher's output on the condensed images before the first step"
            )
        return self._condensed[1:]
