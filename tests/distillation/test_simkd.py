from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.commands.export import export
from lightning_condkd.distillation import SimKD
from lightning_condkd.models import ConvNet, Observer, ProjectedNetwork, Projector, SmallImageVGG, WideResNet
from tests.helpers import losses, toy
from tests.helpers.feature_losses import FIRST, LAST, MIDDLE, Pair, pair, without_gradient
from tests.reference import feature_losses as reference


@pytest.mark.parametrize("student", [LAST, FIRST], ids=["same size", "larger student"])
def test_it_is_the_formula(student: str) -> None:
    networks = pair()
    loss = networks.build(SimKD(LAST, student))
    ours, theirs = networks.outputs(loss)
    parameters = dict(loss.projector.layers.named_parameters())
    assert parameters["3.weight"].shape == (4, 4, 3, 3)  # half of the teacher's channels
    expected = reference.projection(reference.pool(ours.maps[0], 4, 4), parameters)
    expected = reference.mean_squared(expected, theirs.maps[0])
    torch.testing.assert_close(loss(ours, theirs), expected, rtol=0, atol=1e-9)


def test_a_larger_teacher_map_is_pooled() -> None:
    networks = pair()._replace(student=_strided().double())
    loss = networks.build(SimKD(LAST, "0"))
    ours, theirs = networks.outputs(loss)
    expected = reference.projection(ours.maps[0], dict(loss.projector.layers.named_parameters()))
    expected = reference.mean_squared(expected, reference.pool(theirs.maps[0], 2, 2))
    torch.testing.assert_close(loss(ours, theirs), expected, rtol=0, atol=1e-9)


def _strided() -> Observer:
    return toy.observed(nn.Sequential(nn.Conv2d(1, 5, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)))


def test_gradients_reach_student_and_projector_and_the_teacher_and_its_head_stay() -> None:
    networks = pair()
    loss = networks.build(SimKD(LAST))
    loss(*networks.outputs(loss)).backward()
    assert without_gradient(networks.student, loss) == {f"student network.linear.{n}" for n in ("weight", "bias")}
    assert all(one.grad is None for one in (*networks.teacher.parameters(), *loss.teacher_head.parameters()))
    trained = sum(one.numel() for group in loss.parameter_groups() for one in group["params"])
    assert trained == sum(one.numel() for one in loss.projector.parameters())


def _train(networks: Pair, loss: SimKD, steps: int = 5) -> list[Tensor]:
    groups = [{"params": list(networks.student.parameters())}, *loss.parameter_groups()]
    optimizer, values = torch.optim.SGD(groups, lr=0.1, momentum=0.9), []
    for _ in range(steps):
        optimizer.zero_grad()
        values.append(loss(*networks.outputs(loss)))
        values[-1].backward()
        optimizer.step()
    return values


@pytest.mark.parametrize("student", [LAST, FIRST])
def test_the_predictor_is_the_teachers_head_on_what_the_loss_trains(student: str) -> None:
    networks = pair()
    loss = networks.build(SimKD(LAST, student))
    values = _train(networks, loss, steps=15)
    assert values[-1] < 0.7 * values[0]
    predictor = loss.predictor(networks.student).eval()
    maps = networks.student(networks.images, maps=[student]).maps[0]
    maps = maps if student == LAST else reference.pool(maps, 4, 4)
    expected = networks.teacher.head()(loss.projector(maps).mean((2, 3)))
    output = predictor(networks.images, embedding=True)
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(networks.teacher.head()(output.embedding), output.logits)
    assert predictor.num_classes == toy.CLASSES


def test_an_exported_predictor_predicts_the_same_bits(tmp_path: Path) -> None:
    networks = pair()
    loss = networks.build(SimKD(LAST, FIRST))
    _train(networks, loss)
    predictor = loss.predictor(networks.student).eval()
    torch.save(predictor.network.state_dict(), tmp_path / "student.pt")
    fresh = ProjectedNetwork(toy.network("fresh", width=3), FIRST, Projector(3, 8), nn.Linear(8, 3), size=(4, 4))
    loaded = Observer(fresh.double(), mean=(0.25,), std=(0.5,), weights=tmp_path / "student.pt").eval()
    assert torch.equal(loaded(networks.images).logits, predictor(networks.images).logits)


def test_a_run_predicts_and_exports_the_same_network(tmp_path: Path) -> None:
    """What ``export`` writes of a checkpoint, loaded by hand, predicts to the bit as the module that was tested."""
    model = losses.condkd(SimKD("layer3", "layer2"))
    run = toy.fit(model, max_epochs=2)
    run.trainer.save_checkpoint(tmp_path / "run.ckpt")
    export(str(tmp_path / "run.ckpt"), str(tmp_path / "student.pt"))
    body = losses.network(2, "another start")
    network = ProjectedNetwork(body, "layer2", Projector(4, 16), nn.Linear(16, toy.CLASSES), size=(2, 2))
    loaded = Observer(network, mean=(0.25,), std=(0.5,), weights=tmp_path / "student.pt").eval()
    images = toy.condensed_set().images
    predicted = model.eval()(images)
    assert torch.equal(loaded(images).logits, predicted)
    assert not torch.allclose(model.student(images).logits, predicted)


def test_the_predictor_shares_weights_and_a_copy_does_not() -> None:
    networks = pair()
    loss = networks.build(SimKD(LAST))
    predictor = loss.predictor(networks.student).eval()
    copied, before = copy.deepcopy(predictor), predictor(networks.images).logits
    with torch.no_grad():
        next(networks.student.parameters()).mul_(-1)
    assert not torch.equal(predictor(networks.images).logits, before)
    assert torch.equal(copied(networks.images).logits, before)
    assert not any(module._forward_hooks for module in predictor.modules())


def test_a_compiled_predictor_predicts_the_same() -> None:
    networks = pair()
    predictor = networks.build(SimKD(LAST)).predictor(networks.student).train()
    batches = networks.images, networks.images.flip(2)
    expected = [predictor(images).logits for images in batches]
    predictor.compile(backend="eager")
    for images, logits in zip(batches, expected, strict=True):
        torch.testing.assert_close(predictor(images).logits, logits)


def test_a_head_that_reads_the_whole_map_gets_it() -> None:
    teacher = Observer(ConvNet(3, image_size=8, in_channels=1, depth=2, width=4)).double().freeze()
    networks = pair()._replace(teacher=teacher)
    loss = networks.build(SimKD("features.7", FIRST))
    loss(*networks.outputs(loss)).backward()
    predictor = loss.predictor(networks.student).eval()
    maps = reference.pool(networks.student(networks.images, maps=[FIRST]).maps[0], 2, 2)
    torch.testing.assert_close(
        predictor(networks.images).logits, teacher.head()(loss.projector(maps).reshape(len(maps), -1))
    )


@pytest.mark.parametrize(
    ("make", "right", "wrong"),
    [(lambda: WideResNet(10, 1, 5), "bn1", "block3"), (lambda: SmallImageVGG(11, 5), "block4", "block3")],
    ids=["WideResNet", "VGG"],
)
def test_relu_is_applied_and_another_map_is_refused_in_the_first_step(
    make: Callable[[], nn.Module], right: str, wrong: str
) -> None:
    network = make()
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
    teacher, student = Observer(network.double()).freeze(), Observer(WideResNet(10, 1, 5).double())
    images = torch.rand(6, 3, 32, 32, dtype=torch.float64)
    for name in (right, wrong):
        loss = SimKD(name, "block3").build(teacher, student, (3, 32, 32)).double()
        outputs = student(images, maps=["block3"]), teacher(images, maps=[name])
        if name == right:
            assert loss(*outputs).requires_grad
        else:
            with pytest.raises(ValueError, match=f"SimKD: expected the last map before .* teacher_map='{wrong}' is an"):
                loss(*outputs)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"teacher_map": FIRST}, r"SimKD: expected teacher_map .* 8 wide, got \(4, 8, 8\) .* name the last stage"),
        ({"teacher_map": LAST, "student_map": "linear"}, r"student_maps\[0\] returns \(N, 3\)"),
        ({"teacher_map": LAST, "factor": 9}, "factor: expected 1 to 8, the channels of the result, got 9"),
    ],
)
def test_what_does_not_fit_is_refused_at_setup(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        pair().build(SimKD(**arguments))


def test_a_student_map_too_small_for_the_teachers_head_is_refused_at_setup() -> None:
    teacher = Observer(ConvNet(3, image_size=8, in_channels=1, depth=1, width=4)).double().freeze()
    networks = pair()._replace(teacher=teacher, student=_strided().double())
    with pytest.raises(ValueError, match=r"reads its whole map \(4, 4, 4\).*'0' is smaller: name a student_map"):
        networks.build(SimKD("features.3", "0"))


def test_a_predictor_needs_a_built_loss_and_a_factor_is_positive() -> None:
    with pytest.raises(RuntimeError, match="SimKD: call build"):
        SimKD(LAST).predictor(pair().student)
    with pytest.raises(ValueError, match="factor: expected at least 1, got 0"):
        SimKD(MIDDLE, factor=0)
