"""CATKD and MSARC."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_condkd.distillation import CATKD, MSARC, DistillationLoss, KLDistillation, WeightedLosses
from lightning_condkd.models import Observer, WideResNet
from tests.helpers import losses, toy
from tests.helpers.feature_losses import FIRST, LAST, MIDDLE, pair, without_gradient
from tests.reference import feature_losses as reference
from tests.reference.feature_losses import activation_maps, gradient_weighted, mean_squared, pool


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("resolution", [1, 2])
def test_catkd_is_the_formula(resolution: int, normalize: bool) -> None:
    networks = pair()
    loss = networks.build(CATKD(LAST, resolution=resolution, normalize=normalize))
    student, teacher = networks.outputs(loss)
    cams = [
        pool(activation_maps(output.maps[0], network.head().weight), resolution, resolution)
        for output, network in ((student, networks.student), (teacher, networks.teacher))
    ]
    ours, theirs = [reference.unit_over_places(one) for one in cams] if normalize else cams
    found = loss(student, teacher, context=networks.context())
    torch.testing.assert_close(found, mean_squared(ours, theirs), rtol=0, atol=1e-9)


def test_msarc_is_the_formula() -> None:
    networks = pair()
    loss = networks.build(MSARC([FIRST, MIDDLE, LAST], cam_weight=2.0, gradient_weight=3.0))
    student, teacher = networks.outputs(loss)
    classes = teacher.logits.argmax(1).tolist()
    assert classes != student.logits.argmax(1).tolist()
    cams = mean_squared(
        activation_maps(student.maps[2], networks.student.head().weight),
        activation_maps(teacher.maps[2], networks.teacher.head().weight),
    )
    stages = [
        mean_squared(*(gradient_weighted(output.logits, classes, output.maps[index]) for output in (student, teacher)))
        for index in range(2)
    ]
    terms = loss.terms(student, teacher, context=networks.context())
    torch.testing.assert_close(terms.values["cam"], cams, rtol=0, atol=1e-9)
    torch.testing.assert_close(terms.values["gradient"], sum(stages), rtol=0, atol=1e-9)
    torch.testing.assert_close(terms.total(), 2 * cams + 3 * sum(stages), rtol=0, atol=1e-9)


def test_catkd_trains_the_students_final_layer_too() -> None:
    networks = pair()
    loss = networks.build(CATKD(LAST))
    loss(*networks.outputs(loss), context=networks.context()).backward()
    assert without_gradient(networks.student, loss) == {"student network.linear.bias"}
    assert all(one.grad is None for one in (*networks.teacher.parameters(), *loss.teacher_head.parameters()))
    assert not loss.parameter_groups()


def test_msarc_takes_final_layers_and_gradients_as_constants() -> None:
    networks = pair()
    loss = networks.build(MSARC([FIRST, LAST]))
    student, teacher = networks.outputs(loss)
    value = loss(student, teacher, context=networks.context())
    torch.autograd.grad(student.logits.sum(), student.maps[0], retain_graph=True)  # the graph is kept for other losses
    value.backward()
    assert without_gradient(networks.student, loss) == {f"student network.linear.{n}" for n in ("weight", "bias")}
    assert all(one.grad is None for one in (*networks.teacher.parameters(), *loss.teacher_head.parameters()))


def test_beside_msarc_the_teacher_is_a_constant_for_other_losses() -> None:
    """Though the teacher has a graph, no backward pass runs through it."""
    networks = pair()
    loss = networks.build(WeightedLosses({"kd": KLDistillation(4.0), "msarc": MSARC([FIRST, LAST])}))
    student, teacher = networks.outputs(loss)
    total = loss(student, teacher, context=networks.context())
    inputs = [teacher.logits, *teacher.maps, student.logits]
    *through_teacher, through_student = torch.autograd.grad(total, inputs, allow_unused=True)
    assert all(gradient is None for gradient in through_teacher)
    assert through_student is not None


def test_msarc_is_refused_where_batches_are_split_by_source() -> None:
    with pytest.raises(ValueError, match=r"MSARC takes gradients .* take another mix than 'two_term'"):
        toy.fit(losses.condkd(MSARC(["layer1", "layer3"])), mix="two_term")


def test_msarc_without_gradient_weight_needs_only_the_last_maps() -> None:
    networks = pair()
    loss = networks.build(MSARC([FIRST, LAST], gradient_weight=0.0))
    assert (loss.needs_teacher_graph, loss.teacher_maps) == (False, (LAST,))
    whole = networks.build(MSARC([FIRST, LAST]))
    values = [one.terms(*networks.outputs(one), context=networks.context()).values for one in (loss, whole)]
    torch.testing.assert_close(values[0]["cam"], values[1]["cam"])


@pytest.mark.parametrize("loss", [CATKD("bn1"), MSARC(["block1", "bn1"])], ids=["CATKD", "MSARC"])
def test_relu_is_applied_and_another_map_is_refused_in_the_first_step(loss: DistillationLoss) -> None:
    teacher, student = (Observer(WideResNet(10, 1, 5).double()) for _ in range(2))
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    for _ in range(3):
        teacher(images)  # statistics
    teacher.freeze()
    wrong = type(loss)("block3") if isinstance(loss, CATKD) else MSARC(["block1", "block3"])  # type: ignore[arg-type]
    unrectified = type(loss)(*([loss.teacher_maps] if isinstance(loss, MSARC) else loss.teacher_maps), rectify=False)  # type: ignore[call-arg, arg-type]
    for one in (loss, wrong, unrectified):
        one.build(teacher, student, (3, 32, 32))
        student_output, teacher_output = (
            network(images, embedding=True, maps=one.teacher_maps) for network in (student, teacher)
        )
        context = pair().context(student_head=student.head())
        if one is loss:
            assert one(student_output, teacher_output, context=context).isfinite()
        else:
            with pytest.raises(ValueError, match=r"expected the last map before the final layer.*is another"):
                one(student_output, teacher_output, context=context)


def test_dropout_before_the_students_final_layer_is_no_other_map() -> None:
    class Dropped(toy.DigitsNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.linear(nn.functional.dropout(self.features(images).mean((2, 3)), 0.4))
            return logits

    networks = pair()._replace(student=toy.observed(Dropped(toy.CLASSES, width=3)).double())
    loss = networks.build(CATKD(LAST))
    assert loss(*networks.outputs(loss), context=networks.context()).isfinite()


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda: CATKD(FIRST, LAST), r"reads the mean over space of 8 channels, got \(4, 8, 8\) .* teacher_map='feat"),
        (lambda: CATKD(LAST, FIRST), r"of 6 channels, got \(3, 8, 8\) .* from student_map='features.2': name the last"),
        (lambda: CATKD(LAST, resolution=5), r"a student_map of at least resolution=5 rows and columns, got \(4, 4\)"),
        (lambda: CATKD(LAST, resolution=0), "resolution: expected at least 1, got 0"),
        (lambda: CATKD("linear"), r"CATKD: expected modules whose outputs are maps"),
        (
            lambda: MSARC([FIRST, LAST], [MIDDLE, LAST]),
            r"equal height and width, got \(3, 4, 4\) from 'features.5' and",
        ),
        (lambda: MSARC([FIRST, MIDDLE]), r"MSARC: expected the last map .* student_maps\[-1\]='features.5'"),
        (lambda: MSARC([LAST]), "name earlier modules too, or set gradient_weight=0"),
        (lambda: MSARC([]), "name the modules in pairs"),
    ],
)
def test_what_does_not_fit_is_refused_at_setup(loss: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        pair().build(loss())


def test_what_they_need_is_asked_for() -> None:
    networks = pair()
    loss = networks.build(CATKD(LAST))
    with pytest.raises(ValueError, match=r"CATKD needs student_head: pass them as LossContext\(student_head=...\)"):
        loss(*networks.outputs(loss))
    graphless = networks.build(MSARC([FIRST, LAST]))
    student, teacher = networks.outputs(graphless)
    detached = teacher._replace(logits=teacher.logits.detach(), maps=tuple(one.detach() for one in teacher.maps))
    with pytest.raises(ValueError, match="expected logits with a graph to the maps: run the network with gradients"):
        graphless(student, detached, context=networks.context())
