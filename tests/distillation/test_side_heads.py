from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.distillation import OFAKD
from lightning_condkd.types import NetworkOutput
from tests.helpers import toy
from tests.helpers.outputs import LABELS, assert_same, random_output
from tests.reference import logits as reference

STAGES = ["features.2", "features.5", "features.8"]
SHAPES = [(4, 8, 8), (4, 4, 4), (8, 4, 4)]


def built(loss: OFAKD, teacher_width: int = 4) -> OFAKD:
    teacher = toy.observed(toy.network("teacher", num_classes=5, width=teacher_width)).freeze()
    student = toy.observed(toy.network("student", num_classes=5))
    return loss.build(teacher, student, toy.SHAPE).double()  # type: ignore[return-value]


STUDENT, TEACHER = random_output("student", width=8, maps=SHAPES), random_output("teacher", width=8)


def _expected(loss: OFAKD, exponents: list[float], temperature: float, labels: Tensor = LABELS) -> list[Tensor]:
    predictions = [head(maps) for head, maps in zip(loss.heads, STUDENT.maps, strict=True)] + [STUDENT.logits]
    return [
        reference.ofa(logits, TEACHER.logits, labels, gamma, temperature)
        for logits, gamma in zip(predictions, exponents, strict=True)
    ]


@pytest.mark.parametrize("exponent", [1.0, [1.0, 1.2, 1.4, 1.5]])
def test_all_predictions_learn_by_the_formula(exponent: Any) -> None:
    loss = built(OFAKD(STAGES, exponent))
    exponents = exponent if isinstance(exponent, list) else [exponent] * 4
    theirs = sum(_expected(loss, exponents, 1.0), torch.zeros(()))
    leaves = [STUDENT.logits, TEACHER.logits, *STUDENT.maps, loss.heads[0][-1].weight, loss.heads[2][0].weight]
    assert_same(loss(STUDENT, TEACHER, LABELS), theirs, leaves)


def test_weights_and_temperature_are_as_given() -> None:
    loss = built(OFAKD(STAGES, temperature=2.0, stage_weight=0.5, logits_weight=3.0))
    terms = loss.terms(STUDENT, TEACHER, LABELS)
    *stages, logits = _expected(loss, [1.0] * 4, 2.0)
    torch.testing.assert_close(terms.values["stages"], sum(stages, torch.zeros(())), rtol=0, atol=1e-9)
    torch.testing.assert_close(terms.values["logits"], logits, rtol=0, atol=1e-9)
    assert terms.weights == {"stages": 0.5, "logits": 3.0}


def test_the_class_of_a_soft_label_is_its_largest() -> None:
    loss = built(OFAKD(STAGES, 1.5))
    soft = torch.full((6, 5), 0.1).scatter(1, LABELS[:, None], 0.6)
    torch.testing.assert_close(loss(STUDENT, TEACHER, soft), loss(STUDENT, TEACHER, LABELS), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("teacher_width", "width"), [(3, 8), (6, 12)])
def test_a_stage_is_halved_once_for_each_stage_after_it(teacher_width: int, width: int) -> None:
    """The heads of the published code: doubled channels, the wider embedding at the end."""
    loss = built(OFAKD(STAGES), teacher_width)
    for head, (channels, side, _), halvings in zip(loss.heads, SHAPES, (2, 1, 0), strict=True):
        assert isinstance(head, nn.Sequential)
        maps = torch.zeros(2, channels, side, side).double()
        for i, block in enumerate(head[: max(halvings, 1)]):
            maps = block(maps)
            last = i == max(halvings, 1) - 1
            expected = side if not halvings else -(-side // 2 ** (i + 1))
            assert maps.shape[1:] == (width if last else channels * 2 ** (i + 1), expected, expected)
        assert head(torch.zeros(2, channels, side, side).double()).shape == (2, 5)
    first = loss.heads[0]
    assert isinstance(first, nn.Sequential)
    weights = [tuple(p.shape) for p in first[0].parameters() if p.dim() == 4]
    assert weights == [(4, 1, 3, 3), (4, 4, 1, 1), (4, 1, 3, 3), (8, 4, 1, 1)]
    assert float(first[-1].bias.detach().abs().sum()) == 0


def test_a_given_width_needs_no_embedding() -> None:
    assert OFAKD(STAGES).needs_embedding
    loss = OFAKD(STAGES, head_width=6)
    assert not loss.needs_embedding
    built(loss)
    assert loss.heads[1][-1].in_features == 6
    bare = [NetworkOutput(output.logits, maps=output.maps) for output in (STUDENT, TEACHER)]
    assert loss(*bare, LABELS).isfinite()


def test_a_stage_without_maps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected maps \(C, H, W\) .*'linear'.*, got .*\(5,\)"):
        built(OFAKD(["features.2", "linear"]))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"student_maps": []}, "student_maps: expected a list of names of one or more stages"),
        ({"student_maps": "layer1"}, "student_maps: expected a list of names of one or more stages, got 'layer1'"),
        ({"exponent": [1.0, 1.0]}, r"exponent: expected a positive number, or 4 .*, got \[1.0, 1.0\]"),
        ({"exponent": 0.0}, "exponent: expected a positive number"),
        ({"temperature": 0.0}, "temperature: expected a positive number"),
        (
            {"stage_weight": 0.0},
            "stage_weight > 0 and logits_weight >= 0, got 0.0 and 1.0: nothing else trains the heads",
        ),
        ({"logits_weight": -1.0}, "stage_weight > 0 and logits_weight >= 0, got 1.0 and -1.0"),
        ({"head_width": 0}, "head_width: expected a count of channels, got 0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OFAKD(**{"student_maps": STAGES, **arguments})
