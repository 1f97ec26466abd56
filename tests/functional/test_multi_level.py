from __future__ import annotations

import pytest
import torch

from lightning_condkd.functional import multi_level as functional
from tests.helpers.outputs import CLASSES, SAMPLES, assert_same, random_tensor
from tests.reference import logits as reference

STUDENT, TEACHER = (random_tensor(f"{name} logits", SAMPLES, CLASSES, scale=2.0) for name in ("student", "teacher"))
LEVELS = {
    "instance": (functional.instance_divergence, reference.instance_term, SAMPLES),
    "batch": (functional.batch_gram_distance, reference.batch_term, SAMPLES),
    "class": (functional.class_gram_distance, reference.class_term, CLASSES),
}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_terms_follow_the_formula(level: str, masked: bool, temperature: float) -> None:
    ours, theirs, size = LEVELS[level]
    kept = torch.arange(size) % 2 == 0 if masked else None
    listed = [True] * size if kept is None else kept.tolist()
    expected = theirs(STUDENT, TEACHER, temperature, listed)
    assert_same(ours(STUDENT, TEACHER, temperature, kept), expected, [STUDENT, TEACHER])


@pytest.mark.parametrize("samples", [SAMPLES, SAMPLES - 1])
def test_masks_follow_the_formula(samples: int) -> None:
    for ours, theirs in zip(
        functional.low_confidence(TEACHER[:samples]), reference.confidence_masks(TEACHER[:samples]), strict=True
    ):
        assert ours.tolist() == theirs
        assert 0 < ours.sum() < len(ours)


def test_gram_matrices_are_not_rounded_by_autocast() -> None:
    student, teacher = STUDENT.float(), TEACHER.float()
    for distance in (functional.batch_gram_distance, functional.class_gram_distance):
        exact = distance(student, teacher, 4.0)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(distance(student, teacher, 4.0), exact)
        assert distance(STUDENT.bfloat16(), TEACHER.bfloat16(), 4.0).dtype == torch.float32


@pytest.mark.parametrize("level", LEVELS)
def test_a_temperature_of_zero_is_refused(level: str) -> None:
    for kept in (None, torch.ones(LEVELS[level][2], dtype=torch.bool)):
        with pytest.raises(ValueError, match="temperature: expected a positive number, got 0"):
            LEVELS[level][0](STUDENT, TEACHER, 0.0, kept)
