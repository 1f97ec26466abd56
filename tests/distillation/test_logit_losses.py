"""Losses on logits: DKD, DIST, LumiNet, LSKD and cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.augment import CropFlip
from lightning_condkd.distillation import (
    DIST,
    DKD,
    LSKD,
    MLKD,
    PKT,
    CrossEntropy,
    DistillationLoss,
    KLDistillation,
    LossContext,
    LumiNet,
)
from lightning_condkd.models import Observer
from lightning_condkd.types import NetworkOutput
from tests.helpers import toy
from tests.helpers.outputs import CLASSES, LABELS, SAMPLES, assert_same, random_output, random_tensor
from tests.reference import kd
from tests.reference import logits as reference

STUDENT, TEACHER = random_output("student"), random_output("teacher")
SECOND = random_output("second student"), random_output("second teacher")
LEAVES = [STUDENT.logits, TEACHER.logits]


def at(progress: float) -> LossContext:
    return LossContext(progress=progress)


# --- DKD -------------------------------------------------------------------------------------------------------------


def test_dkd_is_the_formula_with_the_published_values() -> None:
    ours = DKD()(STUDENT, TEACHER, LABELS)
    assert_same(ours, reference.dkd(STUDENT.logits, TEACHER.logits, LABELS, 1.0, 8.0, 4.0), LEAVES)


def test_dkd_has_named_terms_with_the_given_weights() -> None:
    terms = DKD(alpha=0.5, beta=2.0, temperature=1.0, warmup=0.0).terms(STUDENT, TEACHER, LABELS)
    assert terms.weights == {"target": 0.5, "non_target": 2.0}
    for name, weights in (("target", (1, 0)), ("non_target", (0, 1))):
        theirs = reference.dkd(STUDENT.logits, TEACHER.logits, LABELS, *weights, 1.0)
        assert_same(terms.values[name], theirs, LEAVES)


@pytest.mark.parametrize("loss", [DKD(), LumiNet()])
def test_the_weight_rises_for_20_of_240_epochs(loss: DistillationLoss) -> None:
    assert loss.needs_progress
    full = loss(STUDENT, TEACHER, LABELS, at(1.0))
    for epoch, weight in ((0, 0.0), (5, 0.25), (20, 1.0), (100, 1.0)):
        value = loss(STUDENT, TEACHER, LABELS, at(epoch / 240))
        torch.testing.assert_close(value, weight * full, rtol=1e-12, atol=0)
        assert torch.autograd.grad(value, STUDENT.logits)[0].any() == (weight > 0)


@pytest.mark.parametrize("loss", [DKD(warmup=0.0), LumiNet(warmup=0.0)])
def test_without_warmup_the_length_of_the_run_is_not_needed(loss: DistillationLoss) -> None:
    assert not loss.needs_progress
    assert torch.equal(loss(STUDENT, TEACHER, LABELS, at(0.0)), loss(STUDENT, TEACHER, LABELS))


# --- DIST, LumiNet, cross-entropy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(1.0, 1.0, 1.0), (2.0, 0.5, 4.0)])
def test_dist_is_the_formula(values: tuple[float, float, float]) -> None:
    assert_same(DIST(*values)(STUDENT, TEACHER), reference.dist(STUDENT.logits, TEACHER.logits, *values), LEAVES)


def test_the_published_values_of_dist_are_the_default() -> None:
    assert torch.equal(DIST()(STUDENT, TEACHER), DIST(1.0, 1.0, 1.0)(STUDENT, TEACHER))


def test_luminet_is_the_formula_with_the_published_values() -> None:
    theirs = reference.luminet(STUDENT.logits, TEACHER.logits, 33.0, 4.0)
    ours = LumiNet()(STUDENT, TEACHER)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-9)
    assert_same(ours / 33**2, theirs / 33**2, LEAVES)


def test_luminet_knows_no_affine_map_of_a_class_over_the_batch() -> None:
    scale, shift = random_tensor("scale", CLASSES).detach().abs() + 0.5, random_tensor("shift", CLASSES)
    mapped = NetworkOutput(scale * TEACHER.logits + shift)
    assert LumiNet(alpha=1.0)(mapped, TEACHER) < 1e-10  # not 0: the published 1e-5 is added to the variance
    assert LumiNet(alpha=1.0)(NetworkOutput(TEACHER.logits.square()), TEACHER) > 1e-3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_takes_hard_and_soft_labels(smoothing: float) -> None:
    soft = torch.softmax(random_tensor("labels", SAMPLES, CLASSES).detach(), 1)
    for labels, shares in ((LABELS, torch.eye(CLASSES).double()[LABELS]), (soft, soft), (soft.float(), soft.float())):
        smoothed = (1 - smoothing) * shares.double() + smoothing / CLASSES
        rows = zip(STUDENT.logits, smoothed, strict=True)
        pairs = [list(zip(kd.softmax(s), t, strict=True)) for s, t in rows]
        terms = [-sum((q * torch.log(p) for p, q in row), torch.zeros(())) for row in pairs]
        assert_same(CrossEntropy(smoothing)(STUDENT, TEACHER, labels), reference.mean(terms), [STUDENT.logits])


# --- LSKD ------------------------------------------------------------------------------------------------------------


def standard(output: NetworkOutput) -> NetworkOutput:
    return output._replace(logits=torch.stack(reference.standardized(output.logits)))


def test_by_default_it_is_kd_of_standardized_logits_at_temperature_2() -> None:
    theirs = kd.kd_divergence(standard(STUDENT).logits, standard(TEACHER).logits, 2.0)
    assert_same(LSKD()(STUDENT, TEACHER), theirs, LEAVES)


def test_with_dkd_both_terms_take_standardized_logits() -> None:
    terms = LSKD(DKD(temperature=2.0)).terms(STUDENT, TEACHER, LABELS, at(10 / 240))
    assert terms.weights == {"target": pytest.approx(0.5), "non_target": pytest.approx(4.0)}
    given = standard(STUDENT).logits, standard(TEACHER).logits, LABELS
    assert_same(terms.total(), reference.dkd(*given, 0.5, 4.0, 2.0), LEAVES)


def test_with_mlkd_the_second_view_is_standardized_too() -> None:
    inner = MLKD(second_view=CropFlip(padding=1))
    loss = LSKD(inner)
    assert loss.second_view is inner.second_view
    context = LossContext(second=SECOND)
    ours = loss(STUDENT, TEACHER, None, context)
    theirs = inner(
        standard(STUDENT), standard(TEACHER), None, LossContext(second=(standard(SECOND[0]), standard(SECOND[1])))
    )
    assert_same(ours, theirs, [*LEAVES, SECOND[0].logits])
    assert context.second is SECOND


INNER = [KLDistillation(4.0), DKD(), DIST(), MLKD(masks="none")]


@pytest.mark.parametrize("inner", INNER, ids=lambda loss: type(loss).__name__)
def test_it_knows_neither_scale_nor_shift_of_the_student(inner: DistillationLoss) -> None:
    scale, shift = random_tensor("scale", SAMPLES, 1).detach().abs() + 0.5, random_tensor("shift", SAMPLES, 1)
    mapped = NetworkOutput(scale * TEACHER.logits + shift)
    context = LossContext(second=(mapped, TEACHER))
    assert LSKD(inner)(mapped, TEACHER, LABELS, context).abs() < 1e-6
    assert LSKD(inner)(STUDENT, TEACHER, LABELS, context).abs() > 1e-3


class Demanding(DistillationLoss):
    """A loss that needs everything, has a layer and predicts in its own way."""

    needs_embedding = needs_labels = accepts_soft_labels = needs_class_means = needs_slots = needs_progress = True
    needs_student_head = needs_teacher_head = needs_teacher_graph = True
    teacher_maps, student_maps = ("features.2",), ("features.5",)
    second_view = CropFlip(padding=1)

    def make(self, spec: Any) -> None:
        self.layer = nn.Linear(spec.student.embedding_size, spec.teacher.embedding_size)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        assert self.context.student_head is not None
        assert self.context.slots is not None
        assert labels is not None
        assert student.embedding is not None
        assert self.teacher_head(self.layer(student.embedding)).shape == student.logits.shape
        assert student.maps[0].shape[1:] == (4, 4, 4)
        assert teacher.maps[0].shape[1:] == (4, 8, 8)
        torch.testing.assert_close(student.logits.mean(1), torch.zeros(len(labels)), rtol=0, atol=1e-5)
        return (self.layer(student.embedding) - self.class_means[labels]).square().mean() + 0 * student.logits.sum()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.layer.parameters()), "weight_decay": 0.0}]

    def predictor(self, student: Observer) -> Observer:
        return toy.observed(student.network)

    def other_predictors(self, student: Observer) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"slow": lambda images: student(images).logits}


def test_what_the_inner_loss_needs_it_needs_and_passes_on() -> None:
    inner = Demanding()
    loss = LSKD(inner)
    for name in ("embedding", "labels", "class_means", "slots", "progress", "student_head", "teacher_graph"):
        assert getattr(loss, f"needs_{name}"), name
        assert not getattr(LSKD(), f"needs_{name}"), name
    assert (loss.teacher_maps, loss.student_maps) == (inner.teacher_maps, inner.student_maps)
    assert loss.accepts_soft_labels
    assert loss.second_view is inner.second_view
    teacher, student = toy.observed(toy.network("teacher")).freeze(), toy.observed(toy.network("student"))
    loss.build(teacher, student, toy.SHAPE, slots=4)
    loss.set_class_means(torch.ones(toy.CLASSES, 8))
    images, labels = torch.rand(4, *toy.SHAPE), torch.tensor([0, 1, 2, 0])
    first = (
        student(images, embedding=True, maps=loss.student_maps),
        teacher(images, embedding=True, maps=loss.teacher_maps),
    )
    context = LossContext(0.5, labels, first, student.head())
    loss(*first, labels, context).backward()
    assert inner.layer.weight.grad is not None
    assert inner.spec is not None
    assert inner.spec.slots == 4
    assert loss.parameter_groups()[0]["weight_decay"] == 0.0
    assert list(loss.other_predictors(student)) == ["slow"]
    assert loss.predictor(student) is not student


def test_a_missing_label_or_second_view_is_named() -> None:
    with pytest.raises(ValueError, match="LSKD needs labels"):
        LSKD(DKD())(STUDENT, TEACHER)
    with pytest.raises(ValueError, match="LSKD needs second: pass them as LossContext"):
        LSKD(MLKD())(STUDENT, TEACHER)


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DKD(alpha=-1.0), "weights alpha and beta >= 0, got -1.0 and 8.0"),
        (lambda: DKD(beta=math.nan), "weights alpha and beta >= 0, got 1.0 and nan"),
        (lambda: DKD(temperature=0.0), "temperature: expected a positive number"),
        (lambda: DKD(warmup=20), r"warmup: expected a share of the run, in \[0, 1\], got 20: give epochs as"),
        (lambda: DIST(beta=-1.0), "weights beta and gamma >= 0, got -1.0 and 1.0"),
        (lambda: DIST(temperature=-1.0), "temperature: expected a positive number"),
        (lambda: LumiNet(alpha=0.0), "alpha: expected a positive number, got 0.0"),
        (lambda: LumiNet(temperature=0.0), "temperature: expected a positive number"),
        (lambda: LumiNet(warmup=-0.1), "warmup: expected a share of the run"),
        (lambda: CrossEntropy(1.0), r"label_smoothing: expected a share in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_are_checked(make: Callable[[], DistillationLoss], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_only_a_distillation_loss_can_be_inside() -> None:
    with pytest.raises(TypeError, match=r"expected a DistillationLoss such as KLDistillation\(2.0\), got MSELoss"):
        LSKD(nn.MSELoss())  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [DKD(), LSKD(DKD())])
def test_soft_labels_are_refused_where_a_class_is_needed(loss: DistillationLoss) -> None:
    with pytest.raises(ValueError, match=r"takes classes \(N,\), got probabilities"):
        loss(STUDENT, TEACHER, torch.full((SAMPLES, CLASSES), 0.2))


@pytest.mark.parametrize("loss", [DIST(), LumiNet(), PKT(), LSKD(), MLKD()])
def test_labels_are_not_needed(loss: DistillationLoss) -> None:
    assert not loss.needs_labels


def test_a_module_is_not_hidden_by_a_default_of_the_class() -> None:
    class Optional(DistillationLoss):
        layer: nn.Module | None = None

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.second_view = nn.Linear(2, 2), CropFlip(padding=1)

    loss = Optional()
    assert isinstance(loss.layer, nn.Linear)
    assert isinstance(loss.second_view, CropFlip)
    assert set(loss.state_dict()) == {"layer.weight", "layer.bias"}
    loss.layer = None
    assert loss.layer is None
