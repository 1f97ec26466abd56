"""The trajectory matching distance, and its gradient with regard to images and step size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_condkd.precision import at_least_float32


class Part(NamedTuple):
    """Some images of a training step; only one part at a time needs a graph where gradients are recomputed.

    Args:
        rows: which images of the set, ``(n,)`` int64.
        loss: takes parameters ``(P,)`` and these images ``(n, C, H, W)``, and returns their share of the step's loss.
            Every call must return the same.
    """

    rows: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]


class Segment(NamedTuple):
    """A short training run by plain SGD that is to lead from one point of an expert's trajectory to a later one.

    Args:
        start: parameters from which the run starts, ``(P,)``.
        target: parameters to which it is to lead, ``(P,)``.
        steps: the parts of each step; their losses add up to the loss of the step.
    """

    start: Tensor
    target: Tensor
    steps: Sequence[Sequence[Part]]


def trajectory_distance(end: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance that is left to the target, as a share of that from the start.

    Args:
        end: parameters that were reached, ``(P,)``.
        start: parameters from which the run started, ``(P,)``.
        target: parameters that were to be reached, ``(P,)``; with those of the start the result is not finite.

    Returns:
        A scalar in float32 at least.

    Example:
        >>> trajectory_distance(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([2.0, 0.0]))
        tensor(0.2500)

    References:
        Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", arXiv 2203.11932, equation 2.
    """
    end, start, target = (at_least_float32(point) for point in (end, start, target))
    return (end - target).square().sum() / (start - target).square().sum()


def unrolled(segment: Segment, images: Tensor, step_size: Tensor) -> Tensor:
    """Return the distance after a run, with the graph of all its steps.

    Args:
        segment: the run.
        images: the training set, ``(N, C, H, W)``.
        step_size: that of SGD, a scalar.

    Example:
        >>> images = torch.ones(1, 1, 1, 1, requires_grad=True)
        >>> part = Part(torch.tensor([0]), lambda parameters, image: (parameters * image.flatten()).sum())
        >>> run = Segment(torch.zeros(1), -torch.ones(1), [[part], [part]])
        >>> distance = unrolled(run, images, torch.tensor(0.25))
        >>> distance, torch.autograd.grad(distance, images)[0].item()
        (tensor(0.2500, grad_fn=<DivBackward0>), -0.5)
    """
    parameters = segment.start.detach().requires_grad_()
    for parts in segment.steps:
        loss = torch.stack([part.loss(parameters, images[part.rows]) for part in parts]).sum()
        [gradient] = torch.autograd.grad(loss, parameters, create_graph=True)
        parameters = parameters - step_size * gradient
    return trajectory_distance(parameters, segment.start, segment.target)


def recomputed(segment: Segment, images: Tensor, step_size: Tensor) -> Tensor:
    """Return the same value and the same gradients as :func:`unrolled`, with the graph of one part at a time.

    It goes through the run once without a graph and keeps the parameters of each step. Then it goes back: what the
    distance gains from a change of the parameters is carried from each step to the one before.

    Args:
        segment: the run.
        images: the training set, ``(N, C, H, W)``; only its gradient is known to the result, not a second one.
        step_size: that of SGD, a scalar that requires gradients.

    Example:
        >>> images, step_size = torch.ones(1, 1, 1, 1, requires_grad=True), torch.tensor(0.25, requires_grad=True)
        >>> part = Part(torch.tensor([0]), lambda parameters, image: (parameters * image.flatten()).square().sum())
        >>> run = Segment(torch.ones(1), torch.zeros(1), [[part], [part]])
        >>> [torch.autograd.grad(of(run, images, step_size), [images, step_size]) for of in (unrolled, recomputed)]
        [(tensor([[[[-0.5000]]]]), tensor(-1.)), (tensor([[[[-0.5000]]]]), tensor(-1.))]
    """
    return _backwards(segment, images, step_size, through_parameters=True)


def tesla(segment: Segment, images: Tensor, step_size: Tensor) -> Tensor:
    """Return the value of :func:`unrolled` with TESLA's gradients, which are not those of the distance.

    They hold the parameters of each step constant: that an image moves them, and with them the gradients of all later
    steps, is left out. So they equal the others after one step only. The paper calls its gradient exact; its equation
    6 and its code leave the term out (issue 4 of justincui03/tesla). The code also loses the factor 2 of the pixels'
    gradient (its issue 5), which is here.

    Args:
        segment: the run.
        images: the training set, ``(N, C, H, W)``.
        step_size: that of SGD, a scalar that requires gradients.

    Example:
        >>> images, step_size = torch.ones(1, 1, 1, 1, requires_grad=True), torch.tensor(0.25, requires_grad=True)
        >>> part = Part(torch.tensor([0]), lambda parameters, image: (parameters * image.flatten()).square().sum())
        >>> run = Segment(torch.ones(1), torch.zeros(1), [[part], [part]])
        >>> torch.autograd.grad(tesla(run, images, step_size), [images, step_size])
        (tensor([[[[-0.7500]]]]), tensor(-1.5000))

    References:
        Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", arXiv 2211.10586.
    """
    return _backwards(segment, images, step_size, through_parameters=False)


def _backwards(segment: Segment, images: Tensor, step_size: Tensor, through_parameters: bool) -> Tensor:
    pixels, size = images.detach(), step_size.detach()
    states = _states(segment, pixels, size)
    end = states.pop().requires_grad_()
    distance = trajectory_distance(end, segment.start, segment.target)
    [adjoint] = torch.autograd.grad(distance, end)
    of_pixels, of_size = torch.zeros_like(pixels), torch.zeros_like(size)
    for parts in reversed(segment.steps):
        parameters, carried = states.pop().requires_grad_(), torch.zeros_like(adjoint)
        for part in parts:
            product, of_images, of_parameters = _product(part, parameters, pixels[part.rows], adjoint)
            of_size -= product
            of_pixels.index_add_(0, part.rows, -size * of_images)
            carried -= size * of_parameters
        if through_parameters:
            adjoint = adjoint + carried
    return with_gradients(distance, [images, step_size], [of_pixels, of_size])


def _states(segment: Segment, pixels: Tensor, size: Tensor) -> list[Tensor]:
    """Return the parameters before each step and after the last."""
    states = [segment.start.detach().clone()]
    for parts in segment.steps:
        parameters = states[-1].detach().requires_grad_()
        gradient = torch.zeros_like(parameters)
        for part in parts:
            gradient += torch.autograd.grad(part.loss(parameters, pixels[part.rows]), parameters)[0]
        states.append(states[-1] - size * gradient)
    return states


def _product(part: Part, parameters: Tensor, batch: Tensor, adjoint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the product of a part's gradient with the adjoint, and that product's own gradients."""
    batch.requires_grad_()
    [gradient] = torch.autograd.grad(part.loss(parameters, batch), parameters, create_graph=True)
    product = (gradient * adjoint).sum()  # not @, which autocast would round
    of_images, of_parameters = torch.autograd.grad(product, [batch, parameters], materialize_grads=True)
    return product.detach(), of_images, of_parameters


def positive_step_size(logarithm: Tensor) -> Tensor:
    """Return the step size of a logarithm, with a gradient for which published rates of learning it hold.

    Published code learns the step size a itself, ``a -= rate * dL/da``, and it may turn negative. A logarithm whose
    gradient is ``(dL/da) / a`` moves a by the same amount as long as that is small beside a, and a stays positive. It
    is a rate of ``rate / a**2`` for the plain logarithm, at the a of the moment: with that of the start, a step size
    that grows from 0.001 to 0.03 would be learned 900 times too fast.

    Args:
        logarithm: natural logarithm of the step size, any shape.

    Example:
        >>> logarithm = torch.tensor(0.5).log().requires_grad_()
        >>> step_size = positive_step_size(logarithm)
        >>> step_size.backward()
        >>> step_size.item(), logarithm.grad
        (0.5, tensor(2.))
    """
    value = logarithm.detach().exp()
    return value + (logarithm - logarithm.detach()) / value


def with_gradients(value: Tensor, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return a scalar whose value and whose gradients are given.

    It lets a loss that was differentiated part by part, to bound its memory, go through the usual ``backward``.

    Args:
        value: the scalar.
        tensors: what it depends on; they require gradients.
        gradients: its gradient with respect to each.

    Example:
        >>> pixels = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> loss = with_gradients(torch.tensor(5.0), [pixels], [torch.tensor([3.0, 4.0])])
        >>> loss.backward()
        >>> loss.item(), pixels.grad
        (5.0, tensor([3., 4.]))
    """
    zeros = [((t - t.detach()) * g.detach()).sum() for t, g in zip(tensors, gradients, strict=True)]
    return value.detach() + torch.stack(zeros).sum()
