"""Distances between the relations of the images of a batch, as two networks see them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.precision import at_least_float32

SQUARED_EPSILON = 1e-12


def similarity_preserving(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    r"""Return :math:`\frac{1}{N^2} \| \tilde G_T - \tilde G_S \|_F^2`, the loss of similarity-preserving distillation.

    The Gram matrix :math:`G = X X^\top` compares the flattened features X of the images of the batch; a tilde scales
    each of its rows to length 1.

    Args:
        student_features: output of a layer, ``(N, ...)``.
        teacher_features: likewise; all but the batch may differ.

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the batches differ.

    Example:
        >>> features = torch.rand(3, 4, 2, 2)
        >>> similarity_preserving(features, -5 * features).item() < 1e-12
        True

    References:
        Tung and Mori: "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682.
    """
    student, teacher = _flattened(student_features, teacher_features)
    with torch.autocast(student.device.type, enabled=False):
        grams = [F.normalize(features @ features.T, dim=1) for features in (student, teacher)]
    return (grams[1] - grams[0]).square().mean()


def relational_distance(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Return the smooth L1 distance between the pairwise distances of the images, the first term of RKD.

    Distances are divided by their mean over all pairs. The mean of the loss is over all N * N entries, the zeros of the
    diagonal included, as in the official code.

    Args:
        student_features: ``(N, ...)``, such as embeddings.
        teacher_features: likewise; all but the batch may differ.

    Returns:
        A scalar in float32 at least; 0 for a batch of one.

    Raises:
        ValueError: if the batches differ.

    Example:
        >>> features = torch.rand(4, 8)
        >>> relational_distance(features, 3 * features + 1).item() < 1e-10
        True

    References:
        Park et al.: "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068; its code.
    """
    student, teacher = (_distances(x) for x in _flattened(student_features, teacher_features))
    return F.smooth_l1_loss(student, teacher)


def relational_angle(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Return the smooth L1 distance between the angles at all triplets of images, the second term of RKD.

    Angles are given by their cosines. The mean is over all N * N * N entries, also of triplets in which an image occurs
    twice, as in the official code. The memory grows with N * N * (N + D) for features of width D.

    Args:
        student_features: ``(N, ...)``, such as embeddings.
        teacher_features: likewise; all but the batch may differ.

    Returns:
        A scalar in float32 at least; 0 for a batch of one.

    Raises:
        ValueError: if the batches differ.

    Example:
        >>> features = torch.rand(4, 8)
        >>> relational_angle(features, 3 * features + 1).item() < 1e-10
        True

    References:
        Park et al.: "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068; its code.
    """
    student, teacher = (_cosines(x) for x in _flattened(student_features, teacher_features))
    return F.smooth_l1_loss(student, teacher)


def probabilistic_transfer(student_features: Tensor, teacher_features: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Return :math:`\frac{1}{N^2} \sum_{ij} T_{ij} \log \frac{T_{ij} + \epsilon}{S_{ij} + \epsilon}`, the loss of PKT.

    S and T are the similarities :math:`(\cos + 1) / 2` of all pairs of images, divided by the sum of their row.

    Args:
        student_features: ``(N, ...)``, such as embeddings.
        teacher_features: likewise; all but the batch may differ.
        eps: added to lengths and similarities (official code 1e-7).

    Returns:
        A scalar in float32 at least.

    Raises:
        ValueError: if the batches differ.

    Example:
        >>> features = torch.rand(3, 4)
        >>> abs(probabilistic_transfer(features, 5 * features).item()) < 1e-6
        True

    References:
        Passalis and Tefas: "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018, arXiv
        1803.10837; its code.
    """
    student, teacher = (_neighbor_shares(x, eps) for x in _flattened(student_features, teacher_features))
    return (teacher * ((teacher + eps) / (student + eps)).log()).mean()


def _flattened(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.dim() < 2 or teacher.dim() < 2 or len(student) != len(teacher):
        raise ValueError(
            f"expected features (N, ...) of student and teacher of the same images, got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    return at_least_float32(student).flatten(1), at_least_float32(teacher).flatten(1)


def _differences(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x_j - x_i`` of all pairs and the squares of their lengths.

    Lengths from products of features instead of differences would lose the digits of small distances.
    """
    differences = features[None] - features[:, None]
    return differences, differences.square().sum(2)


def _distances(features: Tensor) -> Tensor:
    lengths = _differences(features)[1].clamp(min=SQUARED_EPSILON).sqrt()  # no gradient between equal features
    count = len(features)
    lengths = lengths * (1 - torch.eye(count, dtype=lengths.dtype, device=lengths.device))
    return lengths / (lengths.sum() / max(count * (count - 1), 1) + (count == 1))


def _cosines(features: Tensor) -> Tensor:
    differences, squares = _differences(features)
    directions = differences / squares.clamp(min=SQUARED_EPSILON).sqrt()[..., None]
    # Equal features have no direction, and the division by their distance would make a huge gradient.
    directions = torch.where(squares[..., None] > SQUARED_EPSILON, directions, 0.0)
    with torch.autocast(features.device.type, enabled=False):
        return directions @ directions.transpose(1, 2)


def _neighbor_shares(features: Tensor, eps: float) -> Tensor:
    units = features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + eps)
    with torch.autocast(features.device.type, enabled=False):
        similarities: Tensor = (units @ units.T + 1) / 2
    return similarities / similarities.sum(1, keepdim=True)
