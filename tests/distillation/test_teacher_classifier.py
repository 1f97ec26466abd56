from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_condkd.distillation import TeacherClassifier
from lightning_condkd.models import Observer
from lightning_condkd.randomness import seeded_generator
from tests.helpers import toy

LABELS = torch.tensor([0, 2, 1, 1])
IMAGES = torch.rand(4, *toy.SHAPE, generator=seeded_generator(0, "images"), dtype=torch.float64)


def _networks(width: int = 8) -> tuple[Observer, Observer]:
    teacher = toy.observed(toy.network("teacher", width=width)).double().freeze()
    return teacher, toy.observed(toy.network("student")).double()


def _loss(teacher: Observer, student: Observer, labels: Tensor = LABELS) -> tuple[TeacherClassifier, Tensor]:
    loss = TeacherClassifier()
    loss.build(teacher, student, toy.SHAPE).double()
    return loss, loss(student(IMAGES, embedding=True), teacher(IMAGES, embedding=True), labels)


def _expected(loss: TeacherClassifier, student: Observer, teacher: Observer, labels: list[list[float]]) -> Tensor:
    total = torch.zeros(())
    for image, label in zip(IMAGES, labels, strict=True):
        feature = student.eval()(image[None], embedding=True).embedding[0]
        moved = loss.projection.weight @ feature + loss.projection.bias  # type: ignore[operator]
        logits = [
            w @ moved + b for w, b in zip(teacher.network.linear.weight, teacher.network.linear.bias, strict=True)
        ]
        normalizer = torch.log(sum(z.exp() for z in logits))
        total = total - sum(p * (z - normalizer) for p, z in zip(label, logits, strict=True)) / len(labels)
    return total


def test_it_is_the_formula_for_hard_and_soft_labels() -> None:
    teacher, student = _networks()
    student.eval()
    soft = torch.rand(4, 3, generator=seeded_generator(0, "soft"), dtype=torch.float64).softmax(1)
    for labels, rows in ((LABELS, torch.eye(3)[LABELS].tolist()), (soft, soft.tolist())):
        loss, value = _loss(teacher, student, labels)
        expected = _expected(loss, student, teacher, rows)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-9, check_dtype=False)


def test_body_and_map_learn_and_neither_the_teacher_nor_the_students_final_layer() -> None:
    teacher, student = _networks()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    loss, value = _loss(teacher, student)
    value.backward()
    assert {name for name, p in student.network.named_parameters() if p.grad is None} == {
        "linear.weight",
        "linear.bias",
    }
    assert all(p.grad.abs().max() > 0 for p in loss.projection.parameters())  # type: ignore[union-attr]
    assert all(p.grad is None for p in loss.teacher_head.parameters())
    assert toy.same(before, dict(teacher.state_dict()))
    (group,) = loss.parameter_groups()
    assert [id(p) for p in group["params"]] == [id(p) for p in loss.projection.parameters()]


def test_equal_widths_need_no_map() -> None:
    teacher, student = _networks(width=4)
    loss, _ = _loss(teacher, student)
    assert isinstance(loss.projection, nn.Identity)
    assert loss.parameter_groups() == []


def test_its_own_prediction_goes_through_the_teachers_layer() -> None:
    teacher, student = _networks()
    student.eval()
    loss, value = _loss(teacher, student)
    logits = loss.other_predictors(student)["teacher_classifier"](IMAGES)
    assert not logits.requires_grad
    torch.testing.assert_close(nn.functional.cross_entropy(logits, LABELS), value.detach(), rtol=0, atol=1e-12)
