from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional import logits as functional
from lightning_condkd.functional.divergence import kd_divergence
from tests.helpers.outputs import CLASSES, LABELS, SAMPLES, assert_same, random_tensor
from tests.reference import logits as reference

STUDENT, TEACHER = (random_tensor(f"{name} logits", SAMPLES, CLASSES, scale=2.0) for name in ("student", "teacher"))
BOTH = [STUDENT, TEACHER]


def test_standardized_logits_follow_the_formula() -> None:
    theirs = torch.stack(reference.standardized(STUDENT))
    torch.testing.assert_close(functional.standardize_logits(STUDENT), theirs, rtol=0, atol=1e-12)


def test_classes_standardized_over_the_batch_follow_the_formula() -> None:
    ours = functional.standardize_classes(STUDENT)
    torch.testing.assert_close(ours, reference.perception(STUDENT), rtol=0, atol=1e-12)
    assert not functional.standardize_classes(STUDENT[:1]).any()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_two_terms_of_dkd_follow_the_formula(temperature: float) -> None:
    for ours, term in (
        (functional.target_divergence, reference.target_term),
        (functional.non_target_divergence, reference.non_target_term),
    ):
        rows = zip(STUDENT, TEACHER, LABELS.tolist(), strict=True)
        theirs = temperature**2 * reference.mean([term(s, t, y, temperature) for s, t, y in rows])
        assert_same(ours(STUDENT, TEACHER, LABELS, temperature), theirs, BOTH)


@pytest.mark.parametrize("row", range(SAMPLES))
def test_distillation_is_target_term_plus_rest_times_non_target_term(row: int) -> None:
    given = STUDENT[row : row + 1], TEACHER[row : row + 1]
    labels = LABELS[row : row + 1]
    target = functional.target_divergence(*given, labels, 3.0)
    others = functional.non_target_divergence(*given, labels, 3.0)
    rest = 1 - torch.softmax(given[1] / 3, 1)[0, labels[0]]
    torch.testing.assert_close(target + rest * others, kd_divergence(*given, 3.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_a_certain_prediction_gives_finite_divergences_and_gradients(shift: float) -> None:
    """Where p(y) rounds to 1, the logarithm of 1 - p(y) is infinite unless it is taken of the other classes."""
    student, teacher = (torch.zeros(2, 4, requires_grad=True) for _ in range(2))
    labels = torch.tensor([0, 1])
    certain = torch.tensor([[1e3, 0.0, 1.0, 2.0], [0.0, 1e3, shift, 0.0]])
    for first, second in ((student, teacher + certain), (student + certain, teacher)):
        value = functional.target_divergence(first, second, labels, 1.0)
        value = value + functional.non_target_divergence(first, second, labels, 1.0)
        assert value.isfinite()
        assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(value, [student, teacher]))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_correlation_terms_follow_the_formula(temperature: float) -> None:
    for ours, weights in ((functional.inter_class_distance, (1, 0)), (functional.intra_class_distance, (0, 1))):
        theirs = reference.dist(STUDENT, TEACHER, *weights, temperature)
        assert_same(ours(STUDENT, TEACHER, temperature), theirs, BOTH)


def test_correlations_do_not_change_by_a_constant() -> None:
    shift = random_tensor("shift", SAMPLES, 1)
    assert functional.inter_class_distance(TEACHER + shift, TEACHER).abs() < 1e-6
    assert functional.intra_class_distance(TEACHER + shift, TEACHER).abs() < 1e-6


@pytest.mark.parametrize(("exponent", "temperature"), [(1.0, 1.0), (1.5, 1.0), (1.2, 3.0)])
def test_adapted_cross_entropy_follows_the_formula(exponent: float, temperature: float) -> None:
    ours = functional.adapted_cross_entropy(STUDENT, TEACHER, LABELS, exponent, temperature)
    assert_same(ours, reference.ofa(STUDENT, TEACHER, LABELS, exponent, temperature), BOTH)


def test_adapted_cross_entropy_with_exponent_one_is_soft_cross_entropy() -> None:
    soft = torch.nn.functional.cross_entropy(STUDENT, torch.softmax(TEACHER, 1))
    torch.testing.assert_close(functional.adapted_cross_entropy(STUDENT, TEACHER, LABELS), soft, rtol=0, atol=1e-12)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "target": lambda s, t: functional.target_divergence(s, t, LABELS, 4.0),
    "non target": lambda s, t: functional.non_target_divergence(s, t, LABELS, 4.0),
    "inter class": functional.inter_class_distance,
    "intra class": functional.intra_class_distance,
    "adapted": lambda s, t: functional.adapted_cross_entropy(s, t, LABELS, 1.5),
    "standardized": lambda s, t: (functional.standardize_logits(s) - functional.standardize_logits(t)).square().mean(),
    "perceived": lambda s, t: (functional.standardize_classes(s) - functional.standardize_classes(t)).square().mean(),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    halves = STUDENT.bfloat16(), TEACHER.bfloat16()
    loss = DISTANCES[name](*halves)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, DISTANCES[name](*(x.float() for x in halves)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: functional.target_divergence(STUDENT, TEACHER, LABELS, 0.0), "temperature: expected a positive"),
        (lambda: functional.non_target_divergence(STUDENT, TEACHER, LABELS, -1.0), "temperature: expected a positive"),
        (lambda: functional.target_divergence(STUDENT, TEACHER, LABELS[:2], 1.0), "expected logits .N, K. of student"),
        (
            lambda: functional.target_divergence(STUDENT, TEACHER[:, :2], LABELS, 1.0),
            "expected logits .N, K. of student",
        ),
        (lambda: functional.non_target_divergence(STUDENT[:, :1], TEACHER[:, :1], LABELS, 1.0), "at least 2 classes"),
        (lambda: functional.inter_class_distance(STUDENT, TEACHER, 0.0), "temperature: expected a positive"),
        (lambda: functional.intra_class_distance(STUDENT, TEACHER, 0.0), "temperature: expected a positive"),
        (lambda: functional.adapted_cross_entropy(STUDENT, TEACHER, LABELS, 0.0), "exponent: expected a positive"),
        (lambda: functional.adapted_cross_entropy(STUDENT, TEACHER, LABELS, 1.0, 0.0), "temperature: expected a"),
        (lambda: functional.standardize_logits(STUDENT[:, :1]), "at least 2 classes"),
    ],
)
def test_arguments_are_checked(call: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
