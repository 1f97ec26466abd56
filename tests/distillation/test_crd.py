from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd.distillation import CRD, LossContext
from lightning_condkd.randomness import Draw, seeded_generator
from tests.helpers.feature_losses import Pair, pair, without_gradient
from tests.reference.crd import Contrast, unit

SLOTS = 9


def _loss(networks: Pair, **arguments: Any) -> CRD:
    return networks.build(CRD(**{"negatives": 20, "size": 5, **arguments}), slots=SLOTS)


def _vectors(loss: CRD, embedding: Tensor, who: str) -> Tensor:
    layer = loss.student_layer if who == "student" else loss.teacher_layer
    return torch.stack([unit(layer.weight @ row + layer.bias) for row in embedding])


def _uniform(step: int, count: int = 6, negatives: int = 20) -> Tensor:
    generator = seeded_generator(0, "contrast negatives", step)
    return torch.rand(count, negatives, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("other_classes", [True, False])
def test_steps_are_the_formula(other_classes: bool) -> None:
    """Images come twice, and a pool that grows, while the constants stay those of the first step."""
    networks = pair()
    loss = _loss(networks, other_classes=other_classes)
    reference = Contrast(SLOTS, negatives=20, temperature=0.07, momentum=0.5)
    for step, slots in enumerate([[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 0], [1, 7, 8, 2, 6, 3]]):
        images = networks.images * (1 - 0.2 * step)
        student, teacher = networks._replace(images=images).outputs(loss)
        labels = torch.tensor(slots) % 3
        labels[1] = (labels[1] + step) % 3  # in the second step another class than before
        ours, theirs = (_vectors(loss, out.embedding, who) for out, who in ((student, "student"), (teacher, "teacher")))  # type: ignore[arg-type]
        reference.enter(slots, labels.tolist() if other_classes else slots, ours, theirs)
        expected = reference.loss(slots, ours, theirs, _uniform(step))
        reference.update(slots, ours, theirs)
        found = loss(student, teacher, labels, LossContext(slots=torch.tensor(slots), draw=Draw(0, step)))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9, check_dtype=False)
    for memory, rows in ((loss.memory.student, reference.student), (loss.memory.teacher, reference.teacher)):
        torch.testing.assert_close(memory, torch.stack([rows[slot] for slot in range(SLOTS)]), rtol=0, atol=1e-12)


def _step(networks: Pair, loss: CRD, slots: list[int], labels: list[int] | None = None, step: int = 0) -> Tensor:
    classes = torch.tensor(slots) % 3 if labels is None else torch.tensor(labels)
    context = LossContext(slots=torch.tensor(slots), draw=Draw(0, step))
    return loss(*networks.outputs(loss), classes, context)


def test_written_rows_have_unit_length_and_others_stay_empty() -> None:
    networks = pair(count=4)
    loss = _loss(networks)
    for step in range(3):
        _step(networks, loss, [0, 4, 7, 2], step=step)
    norms = torch.zeros(SLOTS, dtype=torch.float64)
    norms[[0, 4, 7, 2]] = 1
    torch.testing.assert_close(loss.memory.student.norm(dim=1), norms)
    torch.testing.assert_close(loss.memory.teacher.norm(dim=1), norms)
    assert loss.memory.classes.tolist() == [0, -1, 2, -1, 1, -1, -1, 1, -1]


def test_gradients_reach_student_and_both_layers_and_the_teacher_stays() -> None:
    networks = pair()
    loss = _loss(networks)
    _step(networks, loss, [0, 1, 2, 3, 4, 5]).backward()
    assert without_gradient(networks.student, loss) == {f"student network.linear.{n}" for n in ("weight", "bias")}
    assert all(one.grad is None for one in networks.teacher.parameters())
    names = {"student_layer.weight", "student_layer.bias", "teacher_layer.weight", "teacher_layer.bias"}
    assert {name for name, _ in loss.named_parameters()} == names


def test_the_constants_stay_those_of_the_first_step_and_are_in_the_state() -> None:
    networks = pair()
    loss = _loss(networks)
    _step(networks, loss, [0, 1, 2, 3, 4, 5])
    first = loss.log_normalizers.clone()
    assert first.abs().sum() > 0
    _step(networks._replace(images=networks.images.flip(0)), loss, [0, 1, 2, 3, 4, 5], step=1)
    assert torch.equal(loss.log_normalizers, first)
    resumed = _loss(networks)
    resumed.load_state_dict(loss.state_dict())
    again = [_step(networks, one, [6, 1, 2, 3, 4, 5], step=2) for one in (loss, resumed)]
    assert torch.equal(*again)
    assert torch.equal(loss.memory.student, resumed.memory.student)


def test_images_without_negatives_do_not_set_the_constants() -> None:
    networks = pair(count=1)
    loss = _loss(networks)
    assert _step(networks, loss, [3]).isfinite()
    assert not loss.has_normalizers
    assert _step(pair(count=2), loss, [3, 4]).isfinite()
    assert loss.has_normalizers


def test_negatives_of_a_single_class_are_other_images() -> None:
    networks = pair(count=3)
    loss = _loss(networks)
    assert _step(networks, loss, [0, 1, 2], labels=[1, 1, 1]).isfinite()
    assert loss.has_normalizers


def test_a_row_that_gets_an_image_of_another_class_starts_anew() -> None:
    networks = pair(count=2)
    loss, fresh = _loss(networks), _loss(networks)
    _step(networks, loss, [0, 1], labels=[0, 1])
    later = networks._replace(images=networks.images.flip(0))
    for one in (loss, fresh):
        _step(later, one, [0, 1], labels=[0, 2], step=1)
    assert torch.equal(loss.memory.teacher[1], fresh.memory.teacher[1])
    assert not torch.equal(loss.memory.teacher[0], fresh.memory.teacher[0])
    assert loss.memory.classes[:2].tolist() == [0, 2]


def test_in_eval_mode_nothing_is_remembered() -> None:
    networks = pair()
    loss = _loss(networks)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    assert _step(networks, loss.eval(), [0, 1, 2, 3, 4, 5]).isfinite()
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_of_an_image_that_is_twice_in_a_batch_the_first_counts() -> None:
    networks = pair(count=2)
    loss, alone = _loss(networks), _loss(networks)
    _step(networks, loss, [5, 5], labels=[1, 1])
    _step(networks._replace(images=networks.images[:1]), alone, [5], labels=[1])
    torch.testing.assert_close(loss.memory.teacher, alone.memory.teacher)


def test_half_precision_embeddings_do_not_overflow() -> None:
    networks = pair()
    loss = _loss(networks).float()
    student, teacher = (
        output._replace(embedding=output.embedding.half(), logits=output.logits.half())  # type: ignore[union-attr]
        for output in networks.outputs(loss)
    )
    slots = LossContext(slots=torch.arange(6), draw=Draw(0, 0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher, torch.arange(6) % 3, slots)
    assert value.dtype == torch.float32
    assert value.isfinite()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"negatives": 0}, "expected positive negatives and size, got 0 and 128"),
        ({"temperature": 0.0}, "temperature: expected a positive number, got 0.0"),
        ({"momentum": 1.0}, r"momentum: expected a share in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CRD(**arguments)


def test_what_it_needs_is_asked_for() -> None:
    networks = pair()
    with pytest.raises(ValueError, match="CRD: expected the number of different images of the run, 2 at least, got 0"):
        networks.build(CRD())
    loss = _loss(networks)
    with pytest.raises(ValueError, match=r"CRD needs slots, draw: pass them as LossContext\(slots=...\)"):
        loss(*networks.outputs(loss), torch.zeros(6, dtype=torch.long))
    with pytest.raises(ValueError, match="CRD needs labels"):
        loss(*networks.outputs(loss), None, LossContext(slots=torch.arange(6), draw=Draw(0, 0)))
