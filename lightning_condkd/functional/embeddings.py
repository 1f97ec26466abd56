"""Distances and normalizations of penultimate embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from lightning_condkd.precision import at_least_float32

LENGTH_EPSILON = 1e-12


def norm_direction_distance(student_embedding: Tensor, teacher_embedding: Tensor, class_means: Tensor) -> Tensor:
    r"""Return :math:`1 - \frac{\langle s, \hat m \rangle}{\max(\|s\|, \|t\|)}`, the ND loss of KD++.

    It draws the student's embedding s into the direction of the mean embedding m of the class, and lengthens it until
    it is as long as the teacher's, t.

    Args:
        student_embedding: ``(N, D)``.
        teacher_embedding: ``(N, D)``.
        class_means: mean of the teacher's embeddings in the class of each sample, ``(N, D)``.

    Returns:
        Mean over the batch, a scalar in float32 at least. A class mean of zero counts as 1.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> norm_direction_distance(student, teacher, class_means=teacher)
        tensor(0.5000)

    References:
        Wang et al.: "Improving Knowledge Distillation via Regularizing Feature Norm and Direction", arXiv 2305.17007.
    """
    shapes = [tuple(x.shape) for x in (student_embedding, teacher_embedding, class_means)]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(f"expected three tensors (N, D) of student, teacher and class means, got {shapes}")
    student, teacher, means = (at_least_float32(x) for x in (student_embedding, teacher_embedding, class_means))
    length = torch.maximum(vector_norm(student, dim=1), vector_norm(teacher, dim=1)).clamp(min=LENGTH_EPSILON)
    return (1 - (student * F.normalize(means, dim=1)).sum(1) / length).mean()


def whiten(embedding: Tensor, eps: float = 1e-5) -> Tensor:
    r"""Return the embeddings of a batch with mean 0 and covariance :math:`\approx I`, turned as little as possible.

    It is :math:`(x - \bar x) (\Sigma + \epsilon I)^{-1/2}` (ZCA whitening) with the biased covariance of the batch. In
    directions in which the batch does not vary, as with fewer samples than features, the result is 0. The whitening
    matrix is a constant: gradients flow through its application only.

    Args:
        embedding: ``(N, D)``.
        eps: added to the eigenvalues of the covariance (our default).

    Returns:
        ``(N, D)`` in float32 at least.

    Example:
        >>> white = whiten(torch.rand(64, 4))
        >>> torch.allclose(white.T @ white / 64, torch.eye(4), atol=1e-2)
        True

    References:
        Kessy, Lewin, Strimmer: "Optimal Whitening and Decorrelation", arXiv 1512.00809.
    """
    embedding = at_least_float32(embedding)
    with torch.autocast(embedding.device.type, enabled=False):
        centered = embedding - embedding.mean(0)
        covariance = centered.detach().T @ centered.detach() / len(centered)
        values, vectors = torch.linalg.eigh(covariance)
        whitening: Tensor = (vectors / (values.clamp(min=0) + eps).sqrt()) @ vectors.T
        return centered @ whitening
