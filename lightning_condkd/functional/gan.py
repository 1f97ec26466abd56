"""The critic's side of a Wasserstein GAN with gradient penalty.

The generator's side is ``generator_loss(realness, "hinge")`` of :mod:`~lightning_condkd.functional.adversarial`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_condkd.precision import at_least_float32


def critic_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return the negative distance that the critic sees: mean of synthetic minus mean of real.

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
        scale: multiplies the gradient; 0.5 gives the penalty that the codes have on pixels in [-1, 1] to a critic that
            takes the units of [0, 1].

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
