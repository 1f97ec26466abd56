"""Losses of generative replay: those of a variational autoencoder, and the correction of latents in one step."""

from __future__ import annotations

from torch import Tensor

from lightning_condkd.precision import at_least_float32


def image_l1(images: Tensor, targets: Tensor, std: Tensor) -> Tensor:
    r"""Return the mean absolute difference of images in the teacher's normalised units.

    It is :math:`\frac{1}{NCHW} \sum |x - \hat x| / \sigma_c`; the teacher's mean cancels.

    Args:
        images: ``(N, C, H, W)``, pixels in the units of [0, 1].
        targets: likewise.
        std: the teacher's standard deviation of each channel, broadcastable to the images, e.g. ``(C, 1, 1)``.

    Returns:
        A scalar in float32 at least.

    Example:
        >>> import torch
        >>> image_l1(torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4), torch.tensor([0.5, 0.25]).view(-1, 1, 1))
        tensor(3.)
    """
    return ((at_least_float32(images) - at_least_float32(targets)).abs() / std).mean()


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Return the divergence of encoded latents from the standard normal, :math:`\mathrm{KL}(q \,\|\, N(0, I))`.

    It is :math:`\frac{1}{N} \sum_{i,j} \frac12 (\mu_{ij}^2 + \sigma_{ij}^2 - 1 - \log \sigma_{ij}^2)`: a sum over
    latent coordinates, a mean over the batch.

    Args:
        mean: of each latent, ``(N, L)``.
        log_variance: logarithm of the variance of each latent, ``(N, L)``.

    Returns:
        A scalar in float32 at least, not negative.

    Example:
        >>> import torch
        >>> gaussian_divergence(torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2))
        tensor(4.5000)

    References:
        Kingma, Welling: "Auto-Encoding Variational Bayes", arXiv 1312.6114, appendix B.
    """
    mean, log_variance = at_least_float32(mean), at_least_float32(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


def reparameterize(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Return samples of a normal distribution as a differentiable function of standard normal noise.

    Args:
        mean: ``(N, L)``.
        log_variance: ``(N, L)``.
        noise: ``(N, L)``.

    Example:
        >>> import torch
        >>> reparameterize(torch.tensor([[1.0]]), torch.zeros(1, 1), torch.tensor([[0.5]]))
        tensor([[1.5000]])
    """
    return mean + (0.5 * log_variance).exp() * noise


def latent_variance_distance(latents: Tensor) -> Tensor:
    """Return the mean squared difference between 1 and the unbiased variance of each coordinate over the batch.

    A single latent has variance 0.

    Args:
        latents: ``(N, L)``.

    Returns:
        A scalar in float32 at least.

    Example:
        >>> import torch
        >>> latent_variance_distance(torch.tensor([[2.0, 1.0], [0.0, 1.0]]))
        tensor(1.)
    """
    variance = at_least_float32(latents).var(0, correction=min(1, len(latents) - 1))
    return (variance - 1).square().mean()


def latent_mean_distance(latents: Tensor) -> Tensor:
    """Return the mean square of each coordinate's mean over the batch.

    Args:
        latents: ``(N, L)``.

    Returns:
        A scalar in float32 at least.

    Example:
        >>> import torch
        >>> latent_mean_distance(torch.tensor([[2.0, 1.0], [0.0, -1.0]]))
        tensor(0.5000)
    """
    return at_least_float32(latents).mean(0).square().mean()


def first_adam_step(values: Tensor, gradient: Tensor, lr: float, eps: float = 1e-8) -> Tensor:
    r"""Return values after the first step of Adam.

    In the first step the bias-corrected averages equal the gradient and its square for all betas, so the step is
    :math:`\eta \, g / (|g| + \epsilon)`: nearly the sign of the gradient.

    Args:
        values: any shape.
        gradient: the same shape.
        lr: learning rate of Adam.
        eps: of Adam.

    Example:
        >>> import torch
        >>> first_adam_step(torch.zeros(3), torch.tensor([5.0, -0.01, 0.0]), lr=0.5)
        tensor([-0.5000,  0.5000,  0.0000])

    References:
        Kingma, Ba: "Adam: A Method for Stochastic Optimization", arXiv 1412.6980, algorithm 1.
    """
    return values - lr * gradient / (gradient.abs() + eps)
