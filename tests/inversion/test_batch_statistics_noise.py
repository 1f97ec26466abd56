"""Noise balanced over the classes of a teacher under batch statistics, against a transcription."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.augment import CropFlip
from lightning_condkd.distillation import KLDistillation
from lightning_condkd.inversion import BatchStatisticsNoise
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps import synthesize
from lightning_condkd.steps.comparison import Compared, Comparison
from tests.helpers import toy

STEPS = 6
CADENCE = Cadence(synthesis_steps=STEPS, distill_steps=2)
SEED = 3
NAME = "balanced"  # its predictions for noise are spread over all classes


def _teacher() -> Observer:
    return toy.observed(toy.network(NAME)).freeze()


def _kept(teacher: Observer, cadence: Cadence = CADENCE, batch_size: int = 14) -> tuple[Tensor, Tensor]:
    method = BatchStatisticsNoise(cadence=cadence, batch_size=batch_size)
    method.build(toy.spec(mean=(0.25,), std=(0.5,)), seeded_generator(0, "build"))
    images, labels = synthesize(method, {}, teacher, teacher, 0, SEED)
    assert labels is not None
    return images, labels


def _by_hand(teacher: Observer, steps: int, batch_size: int) -> tuple[list[Tensor], list[int]]:
    """Candidates one after the other: taken where their class lacks images, the rest of the last step at the end."""
    network = toy.network(NAME).train()  # a copy of its own, whose running statistics may change
    whole, rest = divmod(batch_size, toy.CLASSES)
    extra = torch.randperm(toy.CLASSES, generator=seeded_generator(SEED, "labels"))[:rest].tolist()
    room = [whole + (label in extra) for label in range(toy.CLASSES)]
    images, labels, rejected = [], [], []
    for step in range(steps):
        noise = torch.randn(batch_size, *toy.SHAPE, generator=seeded_generator(SEED, "noise", step))
        pixels = torch.clamp(0.25 + 0.5 * noise, 0, 1)
        predicted = network((pixels - 0.25) / 0.5).argmax(1).tolist()
        rejected = []
        for image, label in zip(pixels, predicted, strict=True):
            if room[label]:
                room[label] -= 1
                images.append(image)
                labels.append(label)
            else:
                rejected.append((image, label))
    missing = batch_size - len(images)
    return images + [image for image, _ in rejected[:missing]], labels + [label for _, label in rejected[:missing]]


@pytest.mark.parametrize(("steps", "batch_size"), [(1, 14), (2, 14), (STEPS, 14), (STEPS, 15)])
@pytest.mark.filterwarnings("ignore:BatchStatisticsNoise")
def test_images_are_those_taken_by_hand(steps: int, batch_size: int) -> None:
    images, labels = _kept(_teacher(), Cadence(steps, 2), batch_size)
    expected = _by_hand(_teacher(), steps, batch_size)
    assert torch.equal(images, torch.stack(expected[0]))
    assert labels.tolist() == expected[1]


def test_enough_candidates_balance_the_classes_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, labels = _kept(_teacher(), Cadence(40, 2))
    assert sorted(labels.bincount(minlength=3).tolist()) == [4, 5, 5]


class Stubborn(nn.Module):
    """Predicts one of two classes out of three."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(1), nn.Linear(64, 3)
        nn.init.constant_(self.linear.bias[2:], -100.0)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.norm(images).flatten(1))


def test_a_class_that_never_appears_is_named_and_filled() -> None:
    with pytest.warns(
        UserWarning, match=r"in 6 steps the teacher predicts class 2 for too little.*raise cadence"
    ) as seen:
        images, labels = _kept(Observer(Stubborn(), (0.25,), (0.5,)).freeze())
    assert len(seen) == 1
    assert set(labels.tolist()) == {0, 1}
    assert int(labels.bincount().min()) >= 4
    assert len(images.flatten(1).unique(dim=0)) == 14


def test_the_teacher_is_left_as_it_was() -> None:
    teacher = _teacher()
    before = teacher.fingerprint()
    _kept(teacher)
    assert teacher.fingerprint() == before
    assert not any(module.training for module in teacher.modules())


def test_batch_statistics_spread_the_predictions_of_the_digits_teacher() -> None:
    """With running statistics four of ten classes are predicted for noise; the control that the control is needed."""
    teacher = Observer(DigitsNet(width=32), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors").freeze()
    noise = torch.randn(256, 1, 8, 8, generator=seeded_generator(0, "noise"))
    pixels = (0.3059 + 0.3754 * noise).clamp(0, 1)
    running, batch = (
        teacher(pixels, batch_statistics=on).logits.argmax(1).bincount(minlength=10) for on in (False, True)
    )
    assert int((running > 2).sum()) <= 4
    assert int(batch.min()) >= 5


@pytest.mark.filterwarnings("ignore:BatchStatisticsNoise")
def test_every_block_has_new_images_of_its_draw() -> None:
    first, again = _kept(_teacher())[0].clone(), _kept(_teacher())[0].clone()
    assert torch.equal(first, again)
    method = BatchStatisticsNoise(cadence=CADENCE, batch_size=14)
    method.build(toy.spec(), seeded_generator(0, "build"))
    blocks = [synthesize(method, {}, _teacher(), _teacher(), r, SEED).images.clone() for r in (0, 1)]
    assert not bool((blocks[0].flatten(1)[:, None] == blocks[1].flatten(1)).all(-1).any())


@pytest.mark.filterwarnings("ignore:BatchStatisticsNoise")
def test_statistics_are_those_of_the_global_batch() -> None:
    """A rank looks at all candidates and returns the outputs of its own."""
    method = BatchStatisticsNoise(cadence=CADENCE, batch_size=14)
    method.build(toy.spec(), seeded_generator(0, "build"))
    teacher, unit = _teacher(), CADENCE.unit(0, 0)
    method.start(unit, Draw(0, 0))
    whole = method.loss(method.render(unit, Draw(0, 0)), teacher, teacher, unit, Draw(0, 0))[1].logits
    for rank in (0, 1):
        draw = Draw(0, 0, rank, world_size=2)
        part = method.render(unit, draw)
        assert torch.equal(method.loss(part, teacher, teacher, unit, draw)[1].logits, whole[rank::2])
        own = teacher(part.images, batch_statistics=True).logits
        assert not torch.allclose(own, whole[rank::2])


@pytest.mark.parametrize(
    ("arguments", "spec", "match"),
    [
        ({"batch_size": 1}, {}, "need at least two images, got batch_size=1"),
        (
            {},
            {"bn_channels": ()},
            "uses batch statistics of the teacher's BatchNorm layers, and this teacher has",
        ),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], spec: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        BatchStatisticsNoise(**arguments).build(toy.spec(**spec), seeded_generator(0, "build"))


def _compare(draw: Draw, images: Tensor, batch_statistics: bool) -> Compared:
    teacher, student = _teacher(), toy.observed(toy.network("student 1"))
    loss, view = KLDistillation(20.0), CropFlip(0, 0.0)
    compare = Comparison(teacher, student, loss, view, batch_statistics=batch_statistics)
    return compare(images, torch.full((len(images),), -1), draw)


def test_the_student_s_teacher_normalizes_by_the_batch_too() -> None:
    images = torch.rand(8, *toy.SHAPE, generator=seeded_generator(0, "images"))
    expected = toy.network(NAME).train()((images - 0.25) / 0.5)
    assert torch.equal(_compare(Draw(0, 0), images, batch_statistics=True).teacher.logits, expected)
    assert not torch.allclose(_compare(Draw(0, 0), images, batch_statistics=False).teacher.logits, expected)


@pytest.mark.filterwarnings("ignore:BatchStatisticsNoise")
def test_a_run_asks_the_teacher_for_batch_statistics_in_both_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []
    forward = Observer.forward

    def noting(self: Observer, images: Tensor, **arguments: Any) -> Any:
        if self._frozen:
            asked.append((len(images), arguments.get("batch_statistics", False)))
        return forward(self, images, **arguments)

    module = toy.condkd(BatchStatisticsNoise(cadence=CADENCE, batch_size=14))
    monkeypatch.setattr(Observer, "forward", noting)
    toy.fit(module, mix=0.0, max_epochs=1)
    assert [one for one in asked if one[1]] == [(14, True)] * STEPS + [(8, True)] * 2


def test_a_loss_that_needs_gradients_through_the_teacher_is_refused_at_setup() -> None:
    class Through(KLDistillation):
        needs_teacher_graph = True

    model = toy.condkd(BatchStatisticsNoise(cadence=CADENCE, batch_size=14), distillation=Through())
    with pytest.raises(ValueError, match=r"needs gradients through the teacher.*take another distillation loss"):
        toy.fit(model)


def test_a_teacher_without_batch_norm_is_refused_at_setup() -> None:
    teacher = toy.observed(toy.network("teacher", norm="one_group"))
    model = toy.condkd(BatchStatisticsNoise(cadence=CADENCE, batch_size=14), teacher=teacher)
    with pytest.raises(ValueError, match="this teacher has none: use another teacher, or SmoothNoise"):
        toy.fit(model)
