"""What holds for every loss on feature maps, or with parameters, memory or another predictor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_condkd.distillation import (
    CATKD,
    CRD,
    MSARC,
    VID,
    AttentionTransfer,
    DistillationLoss,
    FitNet,
    LossContext,
    ReviewKD,
    SimKD,
)
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw, seeded_generator
from tests.helpers import toy
from tests.helpers.feature_losses import FIRST, LAST, MIDDLE, Pair, pair
from tests.helpers.virtual_device import DEVICE, VirtualDevice

LOSSES: dict[str, Callable[[], DistillationLoss]] = {
    "AttentionTransfer": lambda: AttentionTransfer([FIRST, LAST]),
    "CATKD": lambda: CATKD(LAST),
    "CRD": lambda: CRD(negatives=16, size=6),
    "FitNet": lambda: FitNet(LAST, FIRST),
    "MSARC": lambda: MSARC([FIRST, MIDDLE, LAST]),
    "ReviewKD": lambda: ReviewKD([FIRST, MIDDLE, LAST]),
    "SimKD": lambda: SimKD(LAST, FIRST),
    "VID": lambda: VID([FIRST, LAST]),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
LABELS = torch.arange(6) % 3


def _context(student: Observer, step: int = 0, device: torch.device | str = "cpu") -> LossContext:
    slots = (torch.arange(6) + step).to(device)
    return LossContext(slots=slots, student_head=student.head(), draw=Draw(0, step))


def _value(networks: Pair, loss: DistillationLoss, *, rows: Tensor | None = None) -> Tensor:
    student, teacher = networks.outputs(loss)
    context = _context(networks.student)
    if rows is None:
        return loss(student, teacher, LABELS, context)
    return loss(student.select(rows), teacher.select(rows), LABELS[rows], context.select(rows))


@every_loss
def test_the_gradient_reaches_the_images_through_the_student(name: str) -> None:
    networks = pair()
    loss = networks.build(LOSSES[name](), slots=9)
    networks.images.requires_grad_()
    student, teacher = networks.outputs(loss)
    constant = teacher._replace(maps=tuple(one.detach() for one in teacher.maps), logits=teacher.logits.detach())
    teacher = teacher if loss.needs_teacher_graph else constant
    (gradient,) = torch.autograd.grad(loss(student, teacher, LABELS, _context(networks.student)), networks.images)
    assert gradient.abs().sum() > 0


@every_loss
def test_the_teacher_stays_as_it_is(name: str) -> None:
    networks = pair()
    loss = networks.build(LOSSES[name](), slots=9)
    before = {key: value.clone() for key, value in networks.teacher.state_dict().items()}
    _value(networks, loss).backward()
    assert all(torch.equal(value, before[key]) for key, value in networks.teacher.state_dict().items())
    assert all(one.grad is None for one in networks.teacher.parameters())


@every_loss
def test_a_part_of_the_batch_is_compared_or_refused(name: str) -> None:
    networks = pair()
    rows = torch.tensor([True, False, True, True, False, False])
    if name == "MSARC":
        with pytest.raises(ValueError, match="a selection of rows: compare a whole batch at once"):
            _value(networks, networks.build(LOSSES[name]()), rows=rows)
        return
    assert _value(networks, networks.build(LOSSES[name](), slots=9), rows=rows).isfinite()


@every_loss
def test_initial_values_are_those_of_the_generator(name: str) -> None:
    networks = pair()
    states = []
    for seed in (0, 0, 1):
        loss = LOSSES[name]()
        loss.build(networks.teacher, networks.student, toy.SHAPE, slots=9, generator=seeded_generator(seed, "build"))
        states.append({key: value for key, value in loss.named_parameters() if value.requires_grad})
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    weights = [key for key, value in states[0].items() if value.dim() > 1]
    assert not any(torch.equal(states[0][key], states[2][key]) for key in weights)


@every_loss
def test_in_half_precision_the_loss_is_single(name: str) -> None:
    networks = pair()
    loss = networks.build(LOSSES[name](), slots=9).float().eval()
    networks.teacher.float()
    networks.student.float()
    networks = networks._replace(images=networks.images.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = _value(networks, loss)
    exact = _value(networks, loss)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.01)


@every_loss
def test_networks_in_true_half_precision_are_compared_in_single(name: str) -> None:
    networks = pair()
    loss = networks.build(LOSSES[name](), slots=9).bfloat16()
    networks.teacher.bfloat16()
    networks.student.bfloat16()
    value = _value(networks._replace(images=networks.images.bfloat16()), loss)
    assert value.dtype == torch.float32
    value.backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in networks.student.parameters())


def _trained(name: str, device: torch.device | str) -> dict[str, Tensor]:
    """The state of student and loss after steps on a device."""
    networks = pair()
    loss = networks.build(LOSSES[name](), slots=12)
    for module in (networks.teacher, networks.student, loss):
        module.float().to(device)
    images = networks.images.float().to(device)
    groups = [{"params": list(networks.student.parameters())}, *loss.parameter_groups()]
    optimizer = torch.optim.SGD(groups, lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        student, teacher = networks._replace(images=images).outputs(loss)
        loss(student, teacher, LABELS.to(device), _context(networks.student, step, device)).backward()
        optimizer.step()
    assert next(networks.student.parameters()).device == torch.device(device)
    state = {**networks.student.state_dict(), **{f"loss {key}": value for key, value in loss.state_dict().items()}}
    return {key: value.detach().cpu() for key, value in state.items()}


@every_loss
def test_steps_on_a_device_are_those_on_the_cpu(name: str) -> None:
    here = _trained(name, "cpu")
    with VirtualDevice():
        there = _trained(name, DEVICE)
    assert toy.same(here, there)


@every_loss
def test_a_resumed_loss_goes_on_to_the_bit(name: str) -> None:
    networks = pair()
    loss, resumed = (networks.build(LOSSES[name](), slots=9) for _ in range(2))
    _value(networks, loss)
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(_value(networks, loss), _value(networks, resumed))
    assert repr(loss) == repr(resumed)
    assert name in repr(loss)
