"""What every loss on logits, relations and embeddings does between two networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_condkd.distillation import (
    DIST,
    DKD,
    LSKD,
    MLKD,
    OFAKD,
    PKT,
    RKD,
    SP,
    CrossEntropy,
    DistillationLoss,
    LossContext,
    LumiNet,
    NormDirection,
    VkD,
)
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw
from tests.helpers import toy
from tests.helpers.outputs import random_tensor
from tests.helpers.virtual_device import DEVICE, VirtualDevice

LOSSES: dict[str, Callable[[], DistillationLoss]] = {
    "CrossEntropy": CrossEntropy,
    "DIST": DIST,
    "DKD": DKD,
    "LSKD": LSKD,
    "LSKD of DKD": lambda: LSKD(DKD()),
    "LSKD of MLKD": lambda: LSKD(MLKD()),
    "LSKD of NormDirection": lambda: LSKD(NormDirection()),
    "LumiNet": LumiNet,
    "MLKD": MLKD,
    "NormDirection": NormDirection,
    "OFAKD": lambda: OFAKD(["features.2", "features.8"]),
    "PKT": PKT,
    "RKD": RKD,
    "SP": lambda: SP(["features.8"]),
    "VkD": VkD,
}
LABELS = torch.arange(6) % toy.CLASSES
UNUSED = ("linear.weight", "linear.bias")


class Pair:
    """A teacher, a narrower student and a loss between them."""

    def __init__(self, loss: DistillationLoss) -> None:
        self.loss = loss
        self.teacher = toy.observed(toy.network("teacher")).freeze()
        self.student = toy.observed(toy.network("student", width=3))
        loss.build(self.teacher, self.student, toy.SHAPE)
        if loss.needs_class_means:
            loss.set_class_means(random_tensor("means", toy.CLASSES, 8).detach().float())

    def __call__(self, images: Tensor) -> Tensor:
        def see(network: Observer, maps: object) -> object:
            return network(images, embedding=self.loss.needs_embedding, maps=maps)

        both = see(self.student, self.loss.student_maps), see(self.teacher, self.loss.teacher_maps)
        second = both if self.loss.second_view is not None else None
        return self.loss(*both, LABELS.to(images.device), LossContext(second=second, draw=Draw(0, 0)))  # type: ignore[arg-type]


@pytest.fixture(params=LOSSES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(LOSSES[request.param]())


IMAGES = random_tensor("images", 6, *toy.SHAPE).detach().float()


def test_gradients_reach_student_images_and_own_parameters_but_not_the_teacher(pair: Pair) -> None:
    images = IMAGES.clone().requires_grad_()
    pair(images).backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    for name, parameter in pair.student.network.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert reached or name in UNUSED, name
    own = list(pair.loss.named_parameters())
    assert all(parameter.grad is not None for _, parameter in own if parameter.requires_grad)
    assert {id(p) for _, p in own} == {id(p) for group in pair.loss.parameter_groups() for p in group["params"]}
    assert all(parameter.grad is None for parameter in pair.teacher.parameters())


def test_networks_and_loss_may_be_of_half_precision(pair: Pair) -> None:
    for module in (pair.teacher, pair.student, pair.loss):
        module.to(torch.bfloat16)
    value = pair(IMAGES.bfloat16())
    assert value.dtype == torch.float32
    value.backward()
    trained = [*pair.student.named_parameters(), *pair.loss.named_parameters()]
    unreached = {name for name, parameter in trained if parameter.grad is None or not parameter.grad.isfinite().all()}
    assert unreached <= {f"network.{name}" for name in UNUSED}


def test_a_loss_descends_with_all_that_it_trains(pair: Pair) -> None:
    groups = [{"params": list(pair.student.parameters())}, *pair.loss.parameter_groups()]
    optimizer = torch.optim.Adam(groups, lr=0.003)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = pair(IMAGES)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]
    assert all(torch.tensor(values).isfinite())


def _trained(name: str, device: torch.device | str) -> dict[str, Tensor]:
    """The state of student and loss after steps on a device."""
    pair = Pair(LOSSES[name]())
    for module in (pair.teacher, pair.student, pair.loss):
        module.to(device)
    groups = [{"params": list(pair.student.parameters())}, *pair.loss.parameter_groups()]
    optimizer = torch.optim.SGD(groups, lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        pair(IMAGES.to(device)).backward()
        optimizer.step()
    assert next(pair.student.parameters()).device == torch.device(device)
    state = {**pair.student.state_dict(), **{f"loss {name}": value for name, value in pair.loss.state_dict().items()}}
    return {name: value.detach().cpu() for name, value in state.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_steps_on_a_device_are_those_on_the_cpu(name: str) -> None:
    here = _trained(name, "cpu")
    with VirtualDevice():
        there = _trained(name, DEVICE)
    assert toy.same(here, there)


def test_the_state_of_a_loss_is_all_that_it_remembers(pair: Pair, request: pytest.FixtureRequest) -> None:
    other = Pair(LOSSES[request.node.callspec.params["pair"]]())
    with torch.no_grad():
        for parameter in pair.loss.parameters():
            parameter.add_(0.1)
    other.loss.load_state_dict(pair.loss.state_dict())
    assert torch.equal(pair(IMAGES), other(IMAGES))


def test_building_does_not_touch_the_global_randomness(pair: Pair) -> None:
    state = torch.get_rng_state()
    again = Pair(pair.loss)
    assert state.equal(torch.get_rng_state())
    assert again.loss is pair.loss
