"""Losses of discriminators, generators and critics, and the critic's gradient penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32

AdversarialLoss = Literal["bce", "hinge"]


def check_kind(kind: str) -> None:
    """Raise ``ValueError`` unless the form of the loss is known.

    Args:
        kind: ``bce`` or ``hinge``.
    """
    if kind not in ("bce", "hinge"):
        raise ValueError(f"loss: expected 'bce' or 'hinge', got {kind!r}.")


def discriminator_loss(real: Tensor, synthetic: Tensor, kind: AdversarialLoss = "bce") -> Tensor:
    """Return the loss of a discriminator; low where real logits are positive and synthetic ones negative.

    ``bce`` is the cross entropy of real against 1 plus that of synthetic against 0; ``hinge`` asks each for a margin of
    1. Both are sums of two batch means.

    Args:
        real: realness logits of real samples, ``(N,)``.
        synthetic: realness logits of synthetic samples, ``(M,)``.
        kind: form of the loss.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the form is unknown.

    Example:
        >>> discriminator_loss(torch.zeros(2), torch.zeros(3))
        tensor(1.3863)
        >>> discriminator_loss(torch.tensor([2.0]), torch.tensor([-0.5]), "hinge")
        tensor(0.5000)

    References:
        Goodfellow et al.: "Generative Adversarial Nets", arXiv 1406.2661.
        Lim and Ye: "Geometric GAN", arXiv 1705.02894.
    """
    check_kind(kind)
    real, synthetic = at_least_float32(real), at_least_float32(synthetic)
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + synthetic).mean()
    on_real = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    return on_real + F.binary_cross_entropy_with_logits(synthetic, torch.zeros_like(synthetic))


def generator_loss(synthetic: Tensor, kind: AdversarialLoss = "bce") -> Tensor:
    """Return the loss of a generator; low where synthetic samples get the logits of real ones.

    ``bce`` is the non-saturating form, the cross entropy against 1; ``hinge`` is the negative mean of the logits.

    Args:
        synthetic: realness logits of synthetic samples, ``(N,)``.
        kind: form of the loss.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the form is unknown.

    Example:
        >>> generator_loss(torch.zeros(2))
        tensor(0.6931)
        >>> generator_loss(torch.tensor([1.0, 3.0]), "hinge")
        tensor(-2.)
    """
    check_kind(kind)
    synthetic = at_least_float32(synthetic)
    if kind == "hinge":
        return -synthetic.mean()
    return F.binary_cross_entropy_with_logits(synthetic, torch.ones_like(synthetic))


def critic_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return the Wasserstein loss of a critic: its mean on synthetic images minus its mean on real images.

    Args:
        real: realness of real images, ``(N,)``.
        synthetic: realness of synthetic images, ``(M,)``.

    Returns:
        A scalar in float32 at least.

    Example:
        >>> critic_loss(torch.tensor([1.0, 3.0]), torch.tensor([-1.0]))
        tensor(-3.)

    References:
        Arjovsky et al.: "Wasserstein GAN", arXiv 1701.07875.
    """
    return at_least_float32(synthetic).mean() - at_least_float32(real).mean()


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, synthetic: Tensor, mix: Tensor, *, scale: float = 1.0
) -> Tensor:
    r"""Return the mean of :math:`(\lVert \nabla_x D(x) \rVert - 1)^2` between pairs of real and synthetic images.

    Args:
        critic: maps images ``(N, C, H, W)`` to realness ``(N,)``, each by itself.
        real: ``(N, C, H, W)``; detached.
        synthetic: ``(N, C, H, W)``; detached.
        mix: share of the real image in each point, ``(N,)``, uniform in [0, 1].
        scale: factor on the gradient. 0.5 makes a critic of pixels in [0, 1] agree with published code, whose pixels
            are in [-1, 1].

    Returns:
        A scalar in float32 at least, with a graph to the critic's parameters.

    Example:
        >>> images = torch.zeros(2, 1, 2, 2)
        >>> gradient_penalty(lambda x: 1.5 * x.flatten(1).sum(1), images, images, torch.rand(2))
        tensor(4.)

    References:
        Gulrajani et al.: "Improved Training of Wasserstein GANs", arXiv 1704.00028.
    """
    share = mix.to(real).view(-1, 1, 1, 1)
    points = (share * real.detach() + (1 - share) * synthetic.detach()).requires_grad_()
    [gradient] = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    slopes: Tensor = torch.linalg.vector_norm(scale * at_least_float32(gradient).flatten(1), dim=1)
    return (slopes - 1).square().mean()
