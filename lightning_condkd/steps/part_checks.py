"""Checks of the parts given by a user: their types, and that gradients reach their parameters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_condkd.alignment import Alignment
from lightning_condkd.augment import Mixing
from lightning_condkd.condensation import CondensationMethod
from lightning_condkd.data.mix import AnnealedMix, Mix
from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.inversion import Inversion
from lightning_condkd.messages import listed
from lightning_condkd.models import Observer
from lightning_condkd.subclassing import check_initialized
from lightning_condkd.types import LossTerms


def _check_kind(name: str, given: object, kind: type[nn.Module], cure: str) -> None:
    if not isinstance(given, kind):
        got = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise TypeError(f"{name}: expected {kind.__name__}, got {got}: {cure}")
    check_initialized(given, "super().__init__(...)")


def check_networks(teacher: object, student: object) -> None:
    """Check that a teacher is an :class:`Observer` and a student is a network.

    Args:
        teacher: value given as teacher.
        student: value given as student.

    Raises:
        TypeError: if they have another type.
    """
    _check_kind("teacher", teacher, Observer, "wrap it as Observer(network, mean, std), those of its data")
    _check_kind("student", student, nn.Module, "give a network that maps images to logits")


def check_stages(inversion: object, alignment: object, distillation: object) -> None:
    """Check the types of the parts of a run.

    Args:
        inversion: value given as inversion.
        alignment: value given as alignment; ``None`` disables it.
        distillation: value given as distillation; ``None`` for the default.

    Raises:
        TypeError: if one has another type.
    """
    own = "a method of your own subclasses Inversion and writes render and loss"
    _check_kind("inversion", inversion, Inversion, f"give a method such as Fast(); {own}")
    if alignment is not None:
        cure = (
            "give FeatureAlignment(discriminator) or MomentAlignment(); a discriminator of your own subclasses "
            "Discriminator, another alignment of your own subclasses Alignment and writes loss"
        )
        _check_kind("alignment", alignment, Alignment, cure)
    if distillation is not None:
        check_loss(distillation)


def check_loss(distillation: object) -> None:
    """Check the type of a distillation loss.

    Args:
        distillation: value given as distillation.

    Raises:
        TypeError: if it has another type.
    """
    cure = "subclass DistillationLoss and write forward(student, teacher, labels), which gets both outputs"
    _check_kind("distillation", distillation, DistillationLoss, cure)


def check_replayed(inversion: Inversion, optimizers: Sequence[str]) -> None:
    """Check that there is an optimizer for the replay loss of a method.

    Args:
        inversion: the method, whose ``replay_loss`` returned terms.
        optimizers: names of the optimizers.

    Raises:
        ValueError: if none of them is ``replay``.
    """
    if "replay" not in optimizers:
        raise ValueError(
            f"{type(inversion).__name__}.replay_loss returned terms, but make_optimizers has no 'replay' to train by "
            "them: add it, or return None"
        )


def check_discriminator(discriminator: nn.Module) -> None:
    """Check after a step that a gradient reached every parameter of what an alignment trains.

    Args:
        discriminator: the network after its step.

    Raises:
        ValueError: if a parameter has no gradient.
    """
    trained = [(name, one) for name, one in discriminator.named_parameters() if one.requires_grad]
    if unreached := [name for name, parameter in trained if parameter.grad is None]:
        raise ValueError(
            f"{type(discriminator).__name__}: no gradient reached {listed(unreached)} in the first step, so nothing "
            "trains it: use it in score, do not make it in build_heads, or freeze it with requires_grad_(False)"
        )


def check_method(method: object) -> None:
    """Check the type of a condensation method.

    Args:
        method: value given as method.

    Raises:
        TypeError: if it has another type.
    """
    cure = "give a method such as DistributionMatching(network); one of your own subclasses it and writes losses"
    _check_kind("method", method, CondensationMethod, cure)


def check_part(method: CondensationMethod, terms: object) -> None:
    """Check a part of a condensation method's loss.

    Args:
        method: the method.
        terms: value yielded by its ``losses``.

    Raises:
        TypeError: if it is no :class:`LossTerms`.
        ValueError: if it has no graph.
    """
    hook = f"{type(method).__name__}.losses"
    if not isinstance(terms, LossTerms):
        raise TypeError(f"{hook}: expected it to yield LossTerms(terms, weights), got {type(terms).__name__}")
    if not terms.total().requires_grad:
        raise ValueError(f"{hook}: no gradient of {', '.join(terms.values)} reaches the images: compute it from images")


def check_reached(method: CondensationMethod, reached: Sequence[bool]) -> None:
    """Check that gradients of an iteration reached the images and every parameter of a condensation method.

    Args:
        method: the method.
        reached: whether a gradient reached the images, and whether one reached each other parameter.

    Raises:
        ValueError: if one got no gradient.
    """
    learned = [id(parameter) for group in method.parameter_groups() for parameter in group["params"]]
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    whole = ["the images", *(names.get(key, "a parameter") for key in learned)]
    if idle := [name for name, there in zip(whole, reached, strict=True) if not there]:
        raise ValueError(
            f"{type(method).__name__}.losses: no gradient reached {listed(idle)} in the first iteration: yield terms "
            "that are computed from it"
        )


def check_mixing(mixing: Mixing | None, loss: DistillationLoss, mix: Mix | float | AnnealedMix = "union") -> None:
    """Check that a loss can be computed on mixtures of images.

    Args:
        mixing: the mixture; ``None`` for none.
        loss: loss of the student.
        mix: composition of the batches.

    Raises:
        ValueError: if it cannot.
    """
    if mixing is None:
        return
    if loss.needs_slots:
        raise ValueError(
            f"{type(loss).__name__} remembers each image, and {type(mixing).__name__} makes new ones of two: leave out "
            "mixing, or take a loss without a memory"
        )
    if mix == "two_term":
        raise ValueError(
            "mix='two_term' has one loss for condensed and one for synthetic images, which mixing blends: leave out "
            "mixing, or set data.mix to 'union' or a share"
        )
