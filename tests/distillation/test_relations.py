from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd.distillation import PKT, RKD, SP, DistillationLoss
from lightning_condkd.types import NetworkOutput
from tests.helpers.outputs import assert_same, random_output, rotation
from tests.reference import relations as reference

SHAPES = [(2, 3, 3), (4, 2, 2)]
STUDENT = random_output("student", width=4, maps=SHAPES)
TEACHER = random_output("teacher", width=7, maps=[(3, 2, 2), (5, 1, 1)])


def _embedding(output: NetworkOutput) -> Tensor:
    assert output.embedding is not None
    return output.embedding


EMBEDDINGS = [_embedding(STUDENT), _embedding(TEACHER)]


def test_sp_is_the_formula_summed_over_pairs_of_maps() -> None:
    theirs = [reference.sp(s.flatten(1), t.flatten(1)) for s, t in zip(STUDENT.maps, TEACHER.maps, strict=True)]
    assert_same(SP(["a", "b"], ["c", "d"])(STUDENT, TEACHER), theirs[0] + theirs[1], [*STUDENT.maps, *TEACHER.maps])


def test_rkd_is_the_formula_with_the_published_weights() -> None:
    terms = RKD().terms(STUDENT, TEACHER)
    assert terms.weights == {"distance": 25.0, "angle": 50.0}
    assert_same(terms.values["distance"], reference.rkd_distance(*EMBEDDINGS), EMBEDDINGS)
    assert_same(terms.values["angle"], reference.rkd_angle(*EMBEDDINGS), EMBEDDINGS)


def test_a_term_of_weight_zero_is_not_computed() -> None:
    assert set(RKD(angle_weight=0.0).terms(STUDENT, TEACHER).values) == {"distance"}
    torch.testing.assert_close(RKD(0.0, 2.0)(STUDENT, TEACHER), 2 * reference.rkd_angle(*EMBEDDINGS), rtol=0, atol=1e-9)


def test_pkt_is_the_formula() -> None:
    assert_same(PKT()(STUDENT, TEACHER), reference.pkt(*EMBEDDINGS), EMBEDDINGS)


@pytest.mark.parametrize("loss", [RKD(), PKT()], ids=lambda loss: type(loss).__name__)
def test_a_rotated_and_scaled_teacher_is_a_perfect_student(loss: DistillationLoss) -> None:
    turned = NetworkOutput(TEACHER.logits, 3 * _embedding(TEACHER) @ rotation("turn", 7))
    assert loss(turned, TEACHER).abs() < 1e-8
    assert loss(STUDENT, TEACHER).abs() > 1e-4


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SP([]), "one at least.*name the modules in pairs"),
        (lambda: SP("layer3"), "expected a list of names of modules, got the string 'layer3'"),
        (lambda: SP(["a"], ["b", "c"]), r"got \['b', 'c'\] and \['a'\]"),
        (lambda: RKD(distance_weight=-1.0), "weights >= 0 of distance and angle, got -1.0 and 50.0"),
    ],
)
def test_arguments_are_checked(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_one_list_of_names_counts_for_both_networks() -> None:
    assert SP(["layer3"]).student_maps == SP(["layer3"]).teacher_maps == ("layer3",)
