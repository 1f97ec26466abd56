from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd.augment import CropFlip, DifferentiableAugment
from lightning_condkd.distillation import MLKD, LossContext
from tests.helpers.outputs import CLASSES, SAMPLES, assert_same, random_output
from tests.reference import logits as reference

FIRST = random_output("student"), random_output("teacher")
SECOND = random_output("second student"), random_output("second teacher")
CONTEXT = LossContext(second=SECOND)
LEAVES = [output.logits for output in (*FIRST, *SECOND)]
PUBLISHED = (2.0, 3.0, 4.0, 5.0, 6.0)
ALL = {"samples": [True] * SAMPLES, "classes": [True] * CLASSES}


def _expected(temperatures: tuple[float, ...], masks: str, relations: bool = False) -> dict[str, Tensor]:
    """The three terms at every temperature, with the masks on the first view."""
    (s, t), (s2, t2) = ([output.logits for output in view] for view in (FIRST, SECOND))
    samples, classes = reference.confidence_masks(t)
    sample_share, class_share = (sum(mask) / len(mask) if masks == "share" else 1.0 for mask in (samples, classes))
    if masks != "select":
        samples, classes = ALL["samples"], ALL["classes"]
    totals = dict.fromkeys(("instance", "class_relation", "batch_relation"), torch.zeros((), dtype=torch.float64))
    for temperature in temperatures:
        totals["instance"] = totals["instance"] + (
            sample_share * reference.instance_term(s, t, temperature, samples)
            + reference.instance_term(s2, t2, temperature, ALL["samples"])
        )
        totals["class_relation"] = totals["class_relation"] + (
            class_share * reference.class_term(s, t, temperature, classes)
            + relations * reference.class_term(s2, t2, temperature, ALL["classes"])
        )
        totals["batch_relation"] = totals["batch_relation"] + (
            sample_share * reference.batch_term(s, t, temperature, samples)
            + relations * reference.batch_term(s2, t2, temperature, ALL["samples"])
        )
    return totals


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (PUBLISHED, "share")),
        ({"masks": "select", "temperatures": (4.0, 1.0)}, ((4.0, 1.0), "select")),
        ({"masks": "none", "temperatures": (3.0,)}, ((3.0,), "none")),
        ({"second_view_relations": True, "temperatures": (3.0,)}, ((3.0,), "share", True)),
        ({"second_view_relations": True, "masks": "select", "temperatures": (3.0,)}, ((3.0,), "select", True)),
    ],
)
def test_terms_follow_the_formula(arguments: dict[str, Any], expected: tuple[Any, ...]) -> None:
    terms = MLKD(**arguments).terms(*FIRST, None, CONTEXT)
    theirs = _expected(*expected)
    assert list(terms.values) == list(theirs)
    assert set(terms.weights.values()) == {1.0}
    for name, value in terms.values.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-9)
    assert_same(terms.total(), sum(theirs.values(), torch.zeros(())), LEAVES)


def test_equal_networks_are_at_distance_zero() -> None:
    assert MLKD()(FIRST[1], FIRST[1], None, LossContext(second=(SECOND[1], SECOND[1]))).abs() < 1e-12


def test_the_second_view_is_a_strong_augmentation_or_the_given_one() -> None:
    default = MLKD().second_view
    assert isinstance(default, DifferentiableAugment)
    assert default.policy == ("color", "flip", "translation", "cutout")
    own = CropFlip(padding=2)
    assert MLKD(second_view=own).second_view is own


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"temperatures": ()}, "temperatures: expected one or more, got none"),
        ({"temperatures": (4.0, 0.0)}, "temperature: expected a positive number, got 0.0"),
        ({"masks": "half"}, "masks: expected one of share, select, none, got 'half'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MLKD(**arguments)
