"""Kinds of soft labels, probabilities and logits: detection, checks and conversion."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

LabelKind = Literal["hard", "probabilities", "logits"]
SoftLabelKind = Literal["probabilities", "logits"]

# Learned or rounded probabilities may miss [0, 1] and a sum of 1 slightly; logits hardly come that near.
_NEAR = 0.1


def soft_label_kind(soft_labels: Tensor) -> SoftLabelKind:
    """Return the kind of soft labels: rows of probabilities are not negative and sum to 1, others are logits.

    Args:
        soft_labels: ``(N, K)``.

    Raises:
        ValueError: if they are nearly probabilities, so that the kind is ambiguous.

    Example:
        >>> import torch
        >>> soft_label_kind(torch.tensor([[0.25, 0.75]])), soft_label_kind(torch.tensor([[-1.0, 2.0]]))
        ('probabilities', 'logits')
    """
    missed = (soft_labels.double().sum(1) - 1).abs()
    if bool((soft_labels >= 0).all()) and bool((missed < 1e-2).all()):
        return "probabilities"
    if _near_unit_range(soft_labels) and float((missed < _NEAR).double().mean()) > 0.5:
        raise ValueError(
            f"soft labels lie between {float(soft_labels.min()):.3f} and {float(soft_labels.max()):.3f} and most rows "
            f"sum to about 1, but one misses it by {float(missed.max()):.3f}: are they probabilities or logits? Pass "
            "label_kind (--label_kind), 'probabilities' or 'logits'; a CondensedSet takes it in its info"
        )
    return "logits"


def checked_kind(soft_labels: Tensor, kind: SoftLabelKind) -> SoftLabelKind:
    """Return the kind given by the user, after a check that the soft labels can be of that kind.

    Args:
        soft_labels: ``(N, K)``.
        kind: ``probabilities`` or ``logits``.

    Raises:
        ValueError: if there is no such kind, or probabilities miss [0, 1] or a sum of 1 by more than rounding or
            learning can explain.
    """
    if kind not in ("probabilities", "logits"):
        raise ValueError(f"label_kind: expected 'probabilities' or 'logits', got {kind!r}")
    if kind == "probabilities" and not _near_unit_range(soft_labels):
        raise ValueError(
            f"label_kind: expected probabilities between 0 and 1, got {float(soft_labels.min()):.3f} to "
            f"{float(soft_labels.max()):.3f}: these are logits"
        )
    missed = float((soft_labels.double().sum(1) - 1).abs().max())
    if kind == "probabilities" and missed > _NEAR:
        raise ValueError(f"label_kind: expected probabilities that sum to 1, one row misses it by {missed:.3f}")
    return kind


def as_probabilities(soft_labels: Tensor, kind: LabelKind) -> Tensor:
    """Return soft labels as probabilities whose rows sum to 1, ``(N, K)``.

    Args:
        soft_labels: ``(N, K)``.
        kind: their kind.

    Example:
        >>> import torch
        >>> as_probabilities(torch.tensor([[0.5, 0.6, -0.1]]), "probabilities")
        tensor([[0.4545, 0.5455, 0.0000]])
    """
    if kind == "logits":
        return soft_labels.softmax(1)
    positive = soft_labels.clamp(min=0)
    return positive / positive.sum(1, keepdim=True)


def _near_unit_range(values: Tensor) -> bool:
    return bool(((values >= -_NEAR) & (values <= 1 + _NEAR)).all())
