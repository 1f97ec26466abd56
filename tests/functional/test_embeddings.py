from __future__ import annotations

import pytest
import torch

from lightning_condkd.functional.embeddings import norm_direction_distance, whiten
from tests.helpers.outputs import LABELS, SAMPLES, assert_same, random_tensor, rotation
from tests.reference import relations as reference

STUDENT, TEACHER, MEANS = (random_tensor(*given) for given in (("s", SAMPLES, 4), ("t", SAMPLES, 4), ("m", 5, 4)))


def test_norm_and_direction_follow_the_formula() -> None:
    assert (STUDENT.norm(dim=1) > TEACHER.norm(dim=1)).unique().numel() == 2  # both sides of the maximum are there
    theirs = reference.norm_direction(STUDENT, TEACHER, MEANS, LABELS)
    assert_same(norm_direction_distance(STUDENT, TEACHER, MEANS[LABELS]), theirs, [STUDENT, TEACHER, MEANS])


def test_the_scale_of_the_student_counts_only_below_the_teachers() -> None:
    long = STUDENT / STUDENT.norm(dim=1, keepdim=True) * TEACHER.norm(dim=1, keepdim=True) * 1.01
    first, second = (norm_direction_distance(scale * long, TEACHER, MEANS[LABELS]) for scale in (1, 7))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    towards = MEANS[LABELS] / 100
    assert norm_direction_distance(2 * towards, TEACHER, MEANS[LABELS]) < norm_direction_distance(
        towards, TEACHER, MEANS[LABELS]
    )


def test_zero_embeddings_and_missing_class_means_are_finite() -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    loss = norm_direction_distance(student, torch.zeros(2, 3), torch.zeros(2, 3))
    loss.backward()
    assert loss == 1
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_shapes_of_embeddings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"student, teacher and class means, got \[\(6, 4\), \(6, 4\), \(5, 4\)\]"):
        norm_direction_distance(STUDENT, TEACHER, MEANS)


def test_whitened_embeddings_have_unit_covariance() -> None:
    white = whiten(random_tensor("many", 200, 4) @ torch.diag(torch.tensor([1.0, 2, 3, 4]).double()), eps=1e-12)
    torch.testing.assert_close(white.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(white.T @ white / 200, torch.eye(4).double(), rtol=0, atol=1e-9)


def test_whitening_turns_with_its_input_and_leaves_white_embeddings_alone() -> None:
    """The two properties that tell ZCA from other whitenings."""
    embeddings, turn = random_tensor("many", 200, 4), rotation("turn", 4)
    white = whiten(embeddings, eps=1e-12)
    torch.testing.assert_close(whiten(embeddings @ turn, eps=1e-12), white @ turn, rtol=0, atol=1e-9)
    torch.testing.assert_close(whiten(white, eps=1e-12), white, rtol=0, atol=1e-9)


def test_fewer_samples_than_features_are_whitened_where_they_vary() -> None:
    few = random_tensor("few", 3, 8)
    white = whiten(few)
    eigenvalues = torch.linalg.eigvalsh(white.T @ white / 3)
    torch.testing.assert_close(eigenvalues[-2:], torch.ones(2).double(), rtol=0, atol=1e-3)
    assert eigenvalues[:-2].abs().max() < 1e-9
    assert torch.autograd.grad(white.square().sum(), few)[0].isfinite().all()
