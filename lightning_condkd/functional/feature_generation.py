"""Targets of a student that generates the teacher's features, and what its optimizer and its sampler adjust."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32

LARGEST_DECAY = 0.999


def split_tokens(features: Tensor, size: int) -> Tensor:
    """Return features cut into tokens of neighboring values.

    Args:
        features: ``(N, D)``.
        size: width d of a token.

    Returns:
        ``(N, D / d, d)``; token i holds the values ``i * d`` to ``(i + 1) * d``. ``flatten(1)`` joins them again.

    Raises:
        ValueError: if the width is not divisible.

    Example:
        >>> import torch
        >>> split_tokens(torch.arange(4.0).view(1, 4), 2)
        tensor([[[0., 1.],
                 [2., 3.]]])

    References:
        Cui et al.: "Generative Distribution Distillation", arXiv 2507.14503.
    """
    token_count(features.shape[1], size)
    return features.reshape(len(features), -1, size)


def token_count(width: int, size: int) -> int:
    """Return the number of tokens that features are cut into.

    Args:
        width: width D of the features.
        size: width d of a token.

    Raises:
        ValueError: if D is not divisible by d.

    Example:
        >>> token_count(512, 64)
        8
    """
    if size < 1 or width % size:
        raise ValueError(
            f"token_size: expected a divisor of {width}, the width of the teacher's embedding, got {size}; "
            f"the next smaller one is {next(d for d in range(max(1, min(size, width)), 0, -1) if width % d == 0)}"
        )
    return width // size


def label_probabilities(labels: Tensor | None, teacher_logits: Tensor, label_weight: float = 1.0) -> Tensor:
    r"""Return :math:`\alpha y + (1 - \alpha) \mathrm{softmax}(\text{teacher logits})` with one-hot labels y.

    Args:
        labels: classes ``(N,)`` or probabilities ``(N, K)``; ``None`` if their weight is 0.
        teacher_logits: ``(N, K)``.
        label_weight: :math:`\alpha`.

    Returns:
        ``(N, K)`` in float32 at least.

    Example:
        >>> import torch
        >>> label_probabilities(torch.tensor([1]), torch.zeros(1, 2), label_weight=0.5)
        tensor([[0.2500, 0.7500]])

    References:
        The official code of "Generative Distribution Distillation", arXiv 2507.14503, for ImageNet.
    """
    teacher = F.softmax(at_least_float32(teacher_logits), dim=1)
    if labels is None:
        return teacher
    given = F.one_hot(labels, teacher.shape[1]) if labels.dim() == 1 else labels
    return label_weight * given.to(teacher) + (1 - label_weight) * teacher


def contract(features: Tensor, probabilities: Tensor, centers: Tensor, contraction: float) -> Tensor:
    r"""Return features moved toward the center of their class, :math:`(1 - a) f + a \sum_k y_k c_k`.

    Args:
        features: ``(N, D)``.
        probabilities: labels y, ``(N, K)``.
        centers: center of each class, ``(K, D)``; the weight of the teacher's final layer in GenDD.
        contraction: a, in [0, 1).

    Example:
        >>> import torch
        >>> contract(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), torch.eye(2), contraction=0.75)
        tensor([[0.0000, 0.7500]])

    References:
        Cui et al.: "Generative Distribution Distillation", arXiv 2507.14503.
    """
    return (1 - contraction) * features + contraction * probabilities.to(features) @ centers.to(features)


def mix_rows(rows: Tensor, partners: Tensor, share: float) -> Tensor:
    r"""Return the mixture of each row with another, :math:`m x + (1 - m) x'`.

    Args:
        rows: ``(N, ...)``.
        partners: index of the other row, ``(N,)`` int64.
        share: m.

    Example:
        >>> import torch
        >>> mix_rows(torch.tensor([[0.0], [1.0]]), torch.tensor([1, 0]), share=0.75)
        tensor([[0.2500],
                [0.7500]])

    References:
        Verma et al.: "Manifold Mixup", arXiv 1806.05236.
    """
    return share * rows + (1 - share) * rows[partners]


def guided_noise(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    r"""Return the noise of classifier-free guidance, :math:`\epsilon_u + s (\epsilon_c - \epsilon_u)`.

    Args:
        conditional: noise predicted with the condition, ``(N, D)``.
        unconditional: noise predicted without, ``(N, D)``.
        scale: s; 1 is the conditional one.

    Example:
        >>> import torch
        >>> guided_noise(torch.tensor([[3.0]]), torch.tensor([[1.0]]), scale=2.0)
        tensor([[5.]])

    References:
        Ho and Salimans: "Classifier-Free Diffusion Guidance", arXiv 2207.12598.
    """
    return unconditional + scale * (conditional - unconditional)


def ramped_decay(progress: float, lowest: float = 0.95) -> float:
    r"""Return Adam's second decay rate, which rises from ``lowest`` to 0.999 along a cosine over the run.

    It is :math:`0.999 - \frac{0.999 - b}{2} (1 + \cos \pi p)` at step i of N with :math:`p = i / (N - 1)`, set before
    each step of the optimizer.

    Args:
        progress: p in [0, 1].
        lowest: b; 0.95 for CIFAR and 0.96 for ImageNet in the official code.

    Example:
        >>> [round(ramped_decay(p), 4) for p in (0.0, 0.5, 1.0)]
        [0.95, 0.9745, 0.999]

    References:
        The official code of "Generative Distribution Distillation", arXiv 2507.14503.
    """
    return LARGEST_DECAY - (LARGEST_DECAY - lowest) / 2 * (1 + math.cos(math.pi * progress))
