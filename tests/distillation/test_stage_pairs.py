"""Every pair of stages of the networks for small images: a loss builds and runs, or is refused at setup by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import nn

from lightning_condkd.distillation import (
    CATKD,
    MSARC,
    VID,
    AttentionTransfer,
    DistillationLoss,
    FitNet,
    LossContext,
    LossSpec,
    NetworkShapes,
    ReviewKD,
    SimKD,
)
from lightning_condkd.models import (
    CifarResNet,
    ConvNet,
    MobileNetV2,
    Observer,
    SmallImageVGG,
    WideResNet,
)
from lightning_condkd.models.heads import ClassifierHead
from lightning_condkd.types import NetworkOutput

SHAPE, CLASSES = (3, 32, 32), 7


class Zoo(NamedTuple):
    make: Callable[[], nn.Module]
    stages: tuple[str, ...]
    last: str  # what the final layer reads
    whole: bool = False  # or all of it, not its mean


NETWORKS = {
    "CifarResNet": Zoo(lambda: CifarResNet(8, CLASSES, width=4), ("layer1", "layer2", "layer3"), "layer3"),
    "WideResNet": Zoo(lambda: WideResNet(10, 1, CLASSES), ("block1", "block2", "block3"), "bn1"),
    "VGG": Zoo(lambda: SmallImageVGG(11, CLASSES), tuple(f"block{n}" for n in range(5)), "block4"),
    "ConvNet": Zoo(lambda: ConvNet(CLASSES, width=6), ("features.2", "features.6", "features.10"), "features.11", True),
    "MobileNetV2": Zoo(
        lambda: MobileNetV2(CLASSES, width_multiplier=0.25),
        ("features.1", "features.3", "features.6", "features.13", "features.17"),
        "features",
    ),
}
Shape = tuple[int, int, int]
pairs_of_networks = pytest.mark.parametrize(("teacher", "student"), list(product(NETWORKS, NETWORKS)))


@cache
def _shapes(name: str) -> tuple[dict[str, Shape], int]:
    """Shape of each stage's map, and width of the embedding."""
    network = NETWORKS[name]
    with torch.device("meta"):
        observer = Observer(network.make().eval())
        names = dict.fromkeys([*network.stages, network.last])
        output = observer(torch.zeros(1, *SHAPE), embedding=True, maps=list(names))
    assert output.embedding is not None
    return {n: tuple(m.shape[1:]) for n, m in zip(names, output.maps, strict=True)}, output.embedding.shape[1]  # type: ignore[misc]


def _run(loss: DistillationLoss, teacher: str, student: str, device: str = "meta") -> None:
    """Make and run a loss on zeros of the networks' shapes, by default on the meta device, without any numbers."""
    sides = []
    for name, names in ((student, loss.student_maps), (teacher, loss.teacher_maps)):
        maps, wide = _shapes(name)
        sides.append(NetworkShapes(wide, tuple(maps[one] for one in names)))
    loss.spec = LossSpec(SHAPE, CLASSES, teacher=sides[1], student=sides[0])
    with torch.device(device):
        loss.teacher_head, student_head = (
            ClassifierHead(nn.Linear(_shapes(name)[1], CLASSES)) for name in (teacher, student)
        )
        loss.make(loss.spec)
        outputs = [
            NetworkOutput(
                torch.zeros(4, CLASSES),
                torch.zeros(4, side.embedding_size),
                tuple(torch.zeros(4, *shape, requires_grad=True) for shape in side.maps),
            )
            for side in sides
        ]
        if isinstance(loss, SimKD):
            loss._checked = True  # there are no numbers to check
        value = loss(outputs[0], outputs[1], context=LossContext(student_head=student_head))
    assert value.shape == ()
    assert value.requires_grad


def _stage_pairs() -> list[tuple[str, str, str, str]]:
    """One pair of stages, as networks and names, for each pair of sizes that there is between networks."""
    found = {}
    for teacher, student in product(NETWORKS, NETWORKS):
        for t, s in product(NETWORKS[teacher].stages, NETWORKS[student].stages):
            sizes = _shapes(teacher)[0][t][1:], _shapes(student)[0][s][1:]
            found[sizes] = (teacher, student, t, s)
    return list(found.values())


def test_there_are_pairs_of_all_sizes() -> None:
    sizes = {shape[1] for name in NETWORKS for shape in _shapes(name)[0].values()}
    assert sizes == {2, 4, 8, 16, 32}
    assert len(_stage_pairs()) == 25


@pytest.mark.parametrize("kind", [VID, AttentionTransfer, ReviewKD])
def test_losses_on_any_map(kind: Callable[..., DistillationLoss]) -> None:
    for teacher, student, t, s in _stage_pairs():
        _run(kind([t], [s]), teacher, student)


def test_fitnet() -> None:
    for teacher, student, t, s in _stage_pairs():
        (_, high, _), (_, rows, _) = _shapes(student)[0][s], _shapes(teacher)[0][t]
        if high >= rows or 2 * high == rows:
            _run(FitNet(t, s), teacher, student)
        else:
            with pytest.raises(ValueError, match="FitNet: expected a student's map of the teacher's height and width"):
                _run(FitNet(t, s), teacher, student)


@pairs_of_networks
def test_reviewkd_on_all_stages(teacher: str, student: str) -> None:
    both = [NETWORKS[name].stages for name in (teacher, student)]
    count = min(map(len, both))
    _run(ReviewKD(*(names[-count:] for names in both)), teacher, student)


@pairs_of_networks
def test_simkd(teacher: str, student: str) -> None:
    maps, wide = _shapes(teacher)
    for t, s in product({*NETWORKS[teacher].stages, NETWORKS[teacher].last}, NETWORKS[student].stages):
        channels, rows, columns = maps[t]
        whole = wide == channels * rows * columns and wide != channels
        smaller = _shapes(student)[0][s][1] < rows
        if wide == channels or (whole and not smaller):
            _run(SimKD(t, s), teacher, student)
        else:
            match = "is smaller: name a student_map" if whole else "expected teacher_map to be the map that the teacher"
            with pytest.raises(ValueError, match=match):
                _run(SimKD(t, s), teacher, student)


@pairs_of_networks
def test_catkd(teacher: str, student: str) -> None:
    if NETWORKS[teacher].whole or NETWORKS[student].whole:
        with pytest.raises(
            ValueError, match="CATKD: expected the last map before the final layer, which reads the mean"
        ):
            _run(CATKD(NETWORKS[teacher].last, NETWORKS[student].last), teacher, student, "cpu")
    else:
        _run(CATKD(NETWORKS[teacher].last, NETWORKS[student].last), teacher, student, "cpu")


@pairs_of_networks
def test_msarc(teacher: str, student: str) -> None:
    both = NETWORKS[teacher], NETWORKS[student]
    sizes = [_shapes(name)[0][network.last][1] for name, network in zip((teacher, student), both, strict=True)]
    loss = MSARC([both[0].last], [both[1].last], gradient_weight=0.0)
    if sizes[0] != sizes[1] or both[0].whole or both[1].whole:
        with pytest.raises(
            ValueError, match="equal height and width" if sizes[0] != sizes[1] else "reads the mean over"
        ):
            _run(loss, teacher, student, "cpu")
    else:
        _run(loss, teacher, student, "cpu")
