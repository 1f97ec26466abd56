"""Trajectory matching distance, and its gradients with respect to images and step size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_condkd.precision import at_least_float32


class Part(NamedTuple):
    """Some images of a training step; :func:`recomputed` and :func:`tesla` hold the graph of one part at a time.

    Args:
        rows: which images of the set, ``(n,)`` int64.
        loss: function of parameters ``(P,)`` and these images ``(n, C, H, W)`` that returns their share of the step's
            loss. It must be deterministic.
    """

    rows: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]


class Segment(NamedTuple):
    """A short training run by plain SGD, from one point of an expert's trajectory towards a later one.

    Args:
        start: parameters at the start of the run, ``(P,)``.
        target: the expert's parameters at the later point, ``(P,)``.
        steps: the parts of each step; their losses add up to the loss of the step.
    """

    start: Tensor
    target: Tensor
    steps: Sequence[Sequence[Part]]


def trajectory_distance(end: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance from end to target, divided by that from start to target.

    Args:
        end: parameters at the end of the run, ``(P,)``.
        start: parameters at the start of the run, ``(P,)``.
        target: the expert's parameters, ``(P,)``; the result is not finite if they equal ``start``.

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
    """Return the trajectory distance after a run, with the graph of all its steps.

    Args:
        segment: the run.
        images: the training set, ``(N, C, H, W)``.
        step_size: learning rate of SGD, a scalar.

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

    A first pass runs all steps without a graph and keeps the parameters of each. A second pass goes backwards and
    propagates the gradient of the distance with respect to the parameters from each step to the one before.

    Args:
        segment: the run.
        images: the training set, ``(N, C, H, W)``; the result is differentiable once, not twice.
        step_size: learning rate of SGD, a scalar that requires gradients.

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

    They treat the parameters of each step as constants, so the effect of an image on the gradients of later steps is
    missing. They equal those of :func:`unrolled` for a single step only. The paper calls its gradient exact, but its
    equation 6 and its code leave the term out (issue 4 of justincui03/tesla). The code also loses the factor 2 of the
    pixels' gradient (its issue 5); here the factor is kept.

    Args:
        segment: the run.
        images: the training set, ``(N, C, H, W)``.
        step_size: learning rate of SGD, a scalar that requires gradients.

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
    """Return ``exp(logarithm)`` with a gradient scaled so that published learning rates of the step size apply.

    Published code learns the step size a itself, ``a -= rate * dL/da``, and a may become negative. A logarithm whose
    gradient is ``(dL/da) / a`` changes a by the same amount as long as that is small compared to a, and a stays
    positive. For the plain logarithm this is a rate of ``rate / a**2`` with the current a. With the initial a instead,
    a step size that grows from 0.001 to 0.03 would be learned 900 times too fast.

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
    """Return a scalar with given value and given gradients.

    With it, a loss that was differentiated part by part to save memory works with the usual ``backward``.

    Args:
        value: the scalar.
        tensors: the tensors that the scalar depends on; they require gradients.
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
