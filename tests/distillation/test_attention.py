from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd.distillation import AttentionDistillation, AttentionTransfer
from lightning_condkd.functional.attention import attention_transfer
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.types import NetworkOutput
from tests.helpers import toy
from tests.helpers.feature_losses import FIRST, LAST, MIDDLE, pair, without_gradient
from tests.reference import generative as reference
from tests.reference.feature_losses import pool

BLOCKS = ("features.2", "features.5", "features.8")


def _output(name: str) -> NetworkOutput:
    generator = seeded_generator(0, name)
    shapes = [(6, 4, 4, 4), (6, 3, 2, 2)]
    logits, *maps = (torch.randn(s, generator=generator, dtype=torch.float64) for s in [(6, 5), *shapes])
    return NetworkOutput(logits, maps=tuple(maps))


STUDENT, TEACHER = _output("student"), _output("teacher")


def _expected(student: NetworkOutput, teacher: NetworkOutput, weight: float = 250.0, per_class: bool = True) -> Tensor:
    divergence = -reference.negative_divergence(teacher.logits, student.logits, per_class)
    return divergence + weight * reference.attention_transfer(list(student.maps), list(teacher.maps))


def _assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, check_dtype=False)


def test_it_is_the_formula_with_the_published_values() -> None:
    _assert_same(AttentionDistillation(["a", "b"])(STUDENT, TEACHER), _expected(STUDENT, TEACHER))


def test_weight_and_reduction_are_as_given() -> None:
    loss = AttentionDistillation(["a", "b"], attention_weight=3.0, reduction="batchmean")
    _assert_same(loss(STUDENT, TEACHER), _expected(STUDENT, TEACHER, weight=3.0, per_class=False))


def test_with_weight_zero_no_map_is_asked_for() -> None:
    loss = AttentionDistillation(["a", "b"], attention_weight=0.0)
    assert loss.teacher_maps == loss.student_maps == ()
    bare = [NetworkOutput(output.logits) for output in (STUDENT, TEACHER)]
    _assert_same(loss(*bare), _expected(STUDENT, TEACHER, weight=0.0))


def test_a_part_of_the_batch_keeps_its_maps() -> None:
    rows = torch.tensor([True, False, True, True, False, False])
    loss = AttentionDistillation(["a", "b"])
    part = [output.select(rows) for output in (STUDENT, TEACHER)]
    _assert_same(loss(*part), _expected(*part))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"teacher_maps": []}, "one at least.*name the modules in pairs"),
        ({"teacher_maps": ["a"], "student_maps": ["a", "b"]}, r"got \['a', 'b'\] and \['a'\]"),
        ({"teacher_maps": ["a"], "reduction": "sum"}, "reduction 'batchmean' or 'elementwise', got 'sum'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        AttentionDistillation(**arguments)


def _distance(weight: float) -> float:
    loss = AttentionDistillation(BLOCKS, attention_weight=weight)
    sgd = {"student_optimizer": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9)}
    run = toy.fit(toy.condkd(distillation=loss, **sgd), mix="two_term", max_epochs=6)
    networks = run.model.student, run.model.teacher
    return float(attention_transfer(*(n.eval()(toy.condensed_set().images, maps=BLOCKS).maps for n in networks)))


def test_in_a_run_the_student_comes_to_look_where_the_teacher_looks() -> None:
    assert _distance(250.0) < 0.6 * _distance(0.0)


def test_a_block_that_is_not_there_is_named() -> None:
    loss = AttentionDistillation(["features.2"], ["layer1"])
    with pytest.raises(ValueError, match="asks the student for the module 'layer1'; there are: features"):
        toy.fit(toy.condkd(distillation=loss))


def test_attention_transfer_is_the_formula_alone() -> None:
    networks = pair()
    loss = networks.build(AttentionTransfer([FIRST, LAST]))
    student, teacher = networks.outputs(loss)
    _assert_same(loss(student, teacher), reference.attention_transfer(list(student.maps), list(teacher.maps)))


@pytest.mark.parametrize(("teacher", "student"), [(MIDDLE, FIRST), (FIRST, MIDDLE)])
def test_attention_transfer_pools_the_larger_map(teacher: str, student: str) -> None:
    networks = pair(count=2)
    loss = networks.build(AttentionTransfer([teacher], [student]))
    outputs = networks.outputs(loss)
    maps = [pool(output.maps[0], 4, 4) for output in outputs]
    _assert_same(loss(*outputs), reference.attention_transfer(maps[:1], maps[1:]))


def test_attention_transfer_knows_neither_scale_nor_sign() -> None:
    networks = pair()
    loss = networks.build(AttentionTransfer([FIRST, LAST]))
    student, teacher = networks.outputs(loss)
    same = teacher._replace(logits=student.logits, maps=tuple(-3 * maps for maps in student.maps))
    assert loss(student, same).item() == pytest.approx(0, abs=1e-12)


def test_attention_transfer_has_no_parameters_and_trains_the_student_only() -> None:
    networks = pair()
    loss = networks.build(AttentionTransfer([FIRST, LAST]))
    loss(*networks.outputs(loss)).backward()
    assert without_gradient(networks.student, loss) == {f"student network.linear.{n}" for n in ("weight", "bias")}
    assert not loss.parameter_groups()
    assert not loss.state_dict()
    assert all(one.grad is None for one in networks.teacher.parameters())


def test_attention_transfer_refuses_what_is_no_pair_of_maps() -> None:
    with pytest.raises(ValueError, match="name the modules in pairs"):
        AttentionTransfer([FIRST], [])
    with pytest.raises(ValueError, match=r"AttentionTransfer: expected modules whose outputs are maps .* \(N, 3\)"):
        pair().build(AttentionTransfer(["linear"]))
