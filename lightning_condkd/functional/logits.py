"""Standardized logits, and distances between predictions that use classes, correlations or a given class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from lightning_condkd.functional.divergence import check_temperature, kd_divergence
from lightning_condkd.precision import at_least_float32


def standardize_logits(logits: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Return :math:`(v - \bar v) / (\sigma_v + \epsilon)` for every sample: logits without their scale and shift.

    The standard deviation is the unbiased one, as in the official code.

    Args:
        logits: ``(N, K)``.
        eps: added to the deviation (official code 1e-7).

    Returns:
        ``(N, K)`` in float32 at least; a row of equal logits becomes 0.

    Raises:
        ValueError: if there are fewer than two classes.

    Example:
        >>> import torch
        >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0], [10.0, 30.0, 50.0]]))
        tensor([[-1.0000,  0.0000,  1.0000],
                [-1.0000,  0.0000,  1.0000]])

    References:
        Sun et al.: "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv 2403.01427; its code.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"logits: expected at least 2 classes to standardise over, got {tuple(logits.shape)}")
    logits = at_least_float32(logits)
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + eps)


def standardize_classes(logits: Tensor, eps: float = 1e-5) -> Tensor:
    r"""Return :math:`(v - \bar v) / \sqrt{\sigma_v^2 + \epsilon}` for every class over the batch.

    It is the perception of LumiNet, with the biased variance as in the official code.

    Args:
        logits: ``(N, K)``.
        eps: added to the variance (official code 1e-5).

    Returns:
        ``(N, K)`` in float32 at least; 0 for a batch of one.

    Example:
        >>> import torch
        >>> standardize_classes(torch.tensor([[1.0, 10.0], [3.0, 50.0]]))
        tensor([[-1.0000, -1.0000],
                [ 1.0000,  1.0000]])

    References:
        Hossain et al.: "LumiNet: Perception-Driven Knowledge Distillation via Statistical Logit Calibration", arXiv
        2310.03669; its code.
    """
    logits = at_least_float32(logits)
    return (logits - logits.mean(0)) / (logits.var(0, unbiased=False) + eps).sqrt()


def target_divergence(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    r"""Return the divergence of the predictions of "this class or another", :math:`\tau^2 \, \mathrm{KL}(b_T \| b_S)`.

    The probabilities are :math:`b = (p_y, 1 - p_y)` of the softened predictions p and the class y. Together with
    :func:`non_target_divergence` it is plain distillation: :math:`\mathrm{KL}(p_T \| p_S)` is this divergence plus
    :math:`1 - p_{T,y}` times the other, for every sample.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.
        labels: classes, ``(N,)`` int64.
        temperature: divisor of both logits, positive.

    Returns:
        Mean over the batch, a scalar in float32 at least.

    Raises:
        ValueError: if the shapes do not fit, there are fewer than two classes, or the temperature is not positive.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
        >>> round(target_divergence(logits.flip(1), logits, labels, temperature=1.0).item(), 4)
        1.2686

    References:
        Zhao et al.: "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679.
    """
    _check_labelled(student_logits, teacher_logits, labels)
    check_temperature(temperature)
    student, teacher = (_target_or_other(x, labels, temperature) for x in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def non_target_divergence(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    r"""Return the divergence of predictions among the other classes, :math:`\tau^2 \, \mathrm{KL}(q_T \| q_S)`.

    The probabilities q are the softened predictions of the K - 1 classes other than the given one.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.
        labels: classes, ``(N,)`` int64.
        temperature: divisor of both logits, positive.

    Returns:
        Mean over the batch, a scalar in float32 at least.

    Raises:
        ValueError: if the shapes do not fit, there are fewer than two classes, or the temperature is not positive.

    Example:
        >>> logits, labels = torch.tensor([[9.0, 2.0, 0.0]]), torch.tensor([0])
        >>> round(non_target_divergence(torch.tensor([[0.0, 0.0, 2.0]]), logits, labels, temperature=1.0).item(), 4)
        1.5232

    References:
        Zhao et al.: "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679.
    """
    _check_labelled(student_logits, teacher_logits, labels)
    return kd_divergence(_others(student_logits, labels), _others(teacher_logits, labels), temperature)


def inter_class_distance(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Return :math:`\tau^2 (1 - \rho)`, with the correlation of softened predictions over the classes of a sample.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.
        temperature: divisor of both logits, positive.

    Returns:
        Mean over the samples, a scalar in float32 at least.

    Raises:
        ValueError: if the temperature is not positive.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> round(inter_class_distance(-logits, logits).item(), 4)
        2.0

    References:
        Huang et al.: "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv 2205.10536; its code.
    """
    check_temperature(temperature)
    student, teacher = (F.softmax(at_least_float32(x) / temperature, dim=1) for x in (student_logits, teacher_logits))
    return (1 - _correlations(student, teacher).mean()) * temperature**2


def intra_class_distance(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Return :math:`\tau^2 (1 - \rho)`, with the correlation of softened predictions of a class over the batch.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.
        temperature: divisor of both logits, positive.

    Returns:
        Mean over the classes, a scalar in float32 at least; :math:`\tau^2` for a batch of one, without a gradient.

    Raises:
        ValueError: if the temperature is not positive.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> round(intra_class_distance(-logits, logits).item(), 4)
        2.0

    References:
        Huang et al.: "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv 2205.10536; its code.
    """
    check_temperature(temperature)
    student, teacher = (F.softmax(at_least_float32(x) / temperature, dim=1) for x in (student_logits, teacher_logits))
    return (1 - _correlations(student.T, teacher.T).mean()) * temperature**2


def adapted_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, exponent: float = 1.0, temperature: float = 1.0
) -> Tensor:
    r"""Return OFA's cross-entropy, :math:`-\sum_c ((p_{T,c} + [c = y])^\gamma - [c = y]) \log p_{S,c}`.

    An exponent above 1 gives more weight to the class y, the more the surer the teacher is of it. With exponent 1 it
    is the cross-entropy with the teacher's prediction.

    Args:
        student_logits: ``(N, K)``.
        teacher_logits: ``(N, K)``.
        labels: classes, ``(N,)`` int64.
        exponent: :math:`\gamma`, positive.
        temperature: divisor of both logits, positive.

    Returns:
        Mean over the batch, a scalar in float32 at least.

    Raises:
        ValueError: if the shapes do not fit, or exponent or temperature are not positive.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> [round(adapted_cross_entropy(0 * logits, logits, labels, gamma).item(), 4) for gamma in (1.0, 1.5)]
        [0.6931, 1.1233]

    References:
        Hao et al.: "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        NeurIPS 2023, arXiv 2310.19444; its code.
    """
    _check_labelled(student_logits, teacher_logits, labels)
    check_temperature(temperature)
    if not exponent > 0:
        raise ValueError(f"exponent: expected a positive number, got {exponent}; 1.0 is plain soft cross-entropy")
    student = F.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher = F.softmax(at_least_float32(teacher_logits) / temperature, dim=1)
    target = F.one_hot(labels, teacher.shape[1]).to(teacher.dtype)
    return -(((teacher + target) ** exponent - target) * student).sum(1).mean()


def _target_or_other(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the logarithms of the probability of the class and of that of all others together, ``(N, 2)``."""
    predictions = F.log_softmax(at_least_float32(logits) / temperature, dim=1)
    # The logarithm of 1 - p would be infinite where p rounds to 1.
    others = _others(predictions, labels).logsumexp(1, keepdim=True)
    return torch.cat([predictions.gather(1, labels[:, None]), others], dim=1)


def _others(values: Tensor, labels: Tensor) -> Tensor:
    """Return the values of all classes but the given one, ``(N, K - 1)``."""
    columns = torch.arange(values.shape[1] - 1, device=values.device).expand(len(values), -1)
    return values.gather(1, columns + (columns >= labels[:, None]))


def _correlations(first: Tensor, second: Tensor, eps: float = 1e-8) -> Tensor:
    """Return Pearson's correlation of each pair of rows; the official code adds 1e-8 to the product of the norms."""
    first, second = (x - x.mean(1, keepdim=True) for x in (first, second))
    norms: Tensor = vector_norm(first, dim=1) * vector_norm(second, dim=1)
    return (first * second).sum(1) / (norms + eps)


def _check_labelled(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> None:
    if student_logits.shape != teacher_logits.shape or labels.shape != student_logits.shape[:1]:
        shapes = [tuple(x.shape) for x in (student_logits, teacher_logits, labels)]
        raise ValueError(f"expected logits (N, K) of student and teacher and classes (N,), got shapes {shapes}")
    if student_logits.shape[1] < 2:
        raise ValueError(f"logits: expected at least 2 classes, got shape {tuple(student_logits.shape)}")
