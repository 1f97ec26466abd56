"""Checks of a method before and in its first step: optimizers, images, labels, terms, gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_condkd.messages import listed
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


def check_optimizers(
    method: nn.Module, optimizers: object, known: Sequence[str], per_round: Sequence[nn.Parameter]
) -> None:
    """Check that every optimizer is stepped, and that together they train all of the method's parameters.

    Args:
        method: the method, built.
        optimizers: result of its ``make_optimizers``.
        known: names of optimizers that are stepped.
        per_round: parameters whose optimizer state is reset.

    Raises:
        TypeError: if this is no mapping of names to optimizers.
        ValueError: if an optimizer is never stepped or missing, or holds a wrong parameter, or no optimizer holds a
            parameter.
    """
    hook = f"{type(method).__name__}.make_optimizers"
    if not isinstance(optimizers, Mapping) or not all(isinstance(one, Optimizer) for one in optimizers.values()):
        raise TypeError(f"{hook}: expected a dict of torch optimizers by name, got {optimizers!r}")
    _check_names(hook, optimizers, known)
    held = {id(parameter): name for name, one in optimizers.items() for parameter in _parameters(one)}
    own = {id(parameter): name for name, parameter in method.named_parameters()}
    if foreign := sorted({name for key, name in held.items() if key not in own}):
        raise ValueError(
            f"{hook}: {listed(foreign)} holds a tensor that is no parameter of the method, which no checkpoint would "
            "hold: make it an nn.Parameter of the method in make(spec, generator)"
        )
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    if idle := [name for key, name in own.items() if key not in held and name in trained]:
        raise ValueError(
            f"{hook}: no optimizer holds {listed(idle)}: add it to one, or freeze it with requires_grad_(False)"
        )
    if any(held.get(id(parameter)) != "synthesis" for parameter in per_round):
        raise ValueError(f"{type(method).__name__}.per_round: expected parameters of the optimizer 'synthesis' alone")


def _check_names(hook: str, optimizers: Mapping[str, Optimizer], known: Sequence[str]) -> None:
    for name in (name for name in optimizers if name not in known):
        raise ValueError(
            f"{hook}: no step takes an optimizer called {name!r}, only {', '.join(known)}. Rename it, name it in "
            "finish_steps if end(unit) asks for its step, or, for 'replay', write replay_loss and set source = "
            "'live'; 'student' and 'discriminator' are the trainer's"
        )
    for name in (name for name in known[1:] if name not in optimizers and name != "replay"):
        raise ValueError(f"{hook}: finish_steps names {name!r}, but there is no optimizer of that name: add it")


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def names_held(method: nn.Module, optimizer: Optimizer) -> list[str]:
    """Return the names of the parameters that an optimizer trains.

    Args:
        method: the method.
        optimizer: one of its optimizers.
    """
    held = {id(parameter) for parameter in _parameters(optimizer)}
    return [name for name, parameter in method.named_parameters() if id(parameter) in held and parameter.requires_grad]


def check_finished(method: nn.Module, names: object, declared: Sequence[str]) -> None:
    """Check the names of the optimizers to step at the end of a block.

    Args:
        method: the method.
        names: result of its ``end``.
        declared: its ``finish_steps``.

    Raises:
        ValueError: if one is not declared.
    """
    if not isinstance(names, (list, tuple)) or any(name not in declared for name in names):
        raise ValueError(
            f"{type(method).__name__}.end: expected names out of finish_steps, which are {tuple(declared)}, got "
            f"{names!r}: declare them there, or return () for none"
        )


def shares_memory(method: nn.Module, images: Tensor) -> bool:
    """Return whether images are a view of a parameter, such as a slice.

    Args:
        method: the method.
        images: images that it rendered.
    """
    # Storage addresses are not compared, because not every device has them.
    return any(parameter is images or parameter is images._base for parameter in method.parameters())


def check_gradients(method: nn.Module, optimizer: str, names: Sequence[str]) -> None:
    """Check after a step that a gradient reached the parameters of an optimizer.

    Args:
        method: the method.
        optimizer: name of the optimizer.
        names: names of its parameters.

    Raises:
        ValueError: if one has no gradient.
    """
    if unreached := [name for name in names if method.get_parameter(name).grad is None]:
        raise ValueError(
            f"{type(method).__name__}: no gradient reached {listed(unreached)} in the first step, so {optimizer!r} "
            "does not train it: use it in the loss without detach or no_grad (or write its gradient in end), freeze it "
            "with requires_grad_(False), or leave it out"
        )


def check_synthetic(hook: str, synthetic: object, rows: int, spec: TaskSpec) -> None:
    """Check the type, shape and classes of synthetic images.

    Args:
        hook: the method that returned them.
        synthetic: the returned value.
        rows: images of this rank.
        spec: shapes of the task.

    Raises:
        TypeError: if it is no :class:`Synthetic`, or its tensors have another type.
        ValueError: if they have another shape, or a label is no class.
    """
    if not isinstance(synthetic, Synthetic):
        raise TypeError(f"{hook}: expected Synthetic(images, labels), got {type(synthetic).__name__}")
    images, labels, shape = synthetic.images, synthetic.labels, (rows, *spec.image_shape)
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"{hook}: expected floating point images in the units of [0, 1], got {got}: divide bytes by 255"
        )
    if images.shape != shape:
        raise ValueError(
            f"{hook}: expected images {shape}, this rank's rows of the batch, got {tuple(images.shape)}: take "
            "[draw.rows] of what the global batch has"
        )
    if labels is not None:
        _check_labels(hook, labels, rows, spec.num_classes)


def _check_labels(hook: str, labels: Tensor, rows: int, num_classes: int) -> None:
    cure = "give labels[draw.rows] as classes, or None for the teacher's predictions"
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{hook}: expected labels of torch.int64, got {got}: {cure}")
    if labels.shape != (rows,):
        raise ValueError(f"{hook}: expected labels of shape {(rows,)}, got {tuple(labels.shape)}: {cure}")
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < num_classes:
        raise ValueError(f"{hook}: expected labels from 0 to {num_classes - 1}, got {low} to {high}: {cure}")


def check_loss(method: nn.Module, found: object, rows: int, num_classes: int, trains: bool) -> None:
    """Check the value that the ``loss`` of a method returned.

    Args:
        method: the method.
        found: the returned value.
        rows: images of this rank.
        num_classes: number of classes K.
        trains: whether a gradient must reach the method's parameters.

    Raises:
        TypeError: if it is no pair of :class:`LossTerms` and :class:`NetworkOutput`.
        ValueError: if the output has another number of images, or the terms have no graph.
    """
    hook = f"{type(method).__name__}.loss"
    kinds = [type(part).__name__ for part in found] if isinstance(found, tuple) else [type(found).__name__]
    match found:
        case (LossTerms() as terms, NetworkOutput() as output) if not isinstance(found, NetworkOutput):
            pass
        case _:
            raise TypeError(
                f"{hook}: expected (LossTerms(terms, weights), the teacher's output), got {', '.join(kinds)}: return "
                "what observe(view) returned as the second"
            )
    if output.logits.shape != (rows, num_classes):
        raise ValueError(
            f"{hook}: expected the teacher's output on the step's images, logits {(rows, num_classes)}, got "
            f"{tuple(output.logits.shape)}: return observe(self.view(synthetic.images, unit, draw))"
        )
    if trains and terms.values and not terms.total().requires_grad:
        raise ValueError(
            f"{hook}: no gradient of {', '.join(terms.values)} reaches what 'synthesis' trains: compute the terms from "
            "synthetic.images, and render these, without detach or no_grad"
        )
