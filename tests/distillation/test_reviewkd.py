from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_condkd.distillation import ReviewKD
from tests.helpers.feature_losses import FIRST, LAST, MIDDLE, pair, without_gradient
from tests.reference import feature_losses as reference


@pytest.mark.parametrize(
    ("teacher", "student"),
    [([FIRST, MIDDLE, LAST], None), ([MIDDLE, LAST], [FIRST, MIDDLE]), ([FIRST, LAST], [MIDDLE, LAST])],
    ids=["same sizes", "a larger student", "a smaller student"],
)
def test_it_is_the_formula(teacher: list[str], student: list[str] | None) -> None:
    networks = pair()
    loss = networks.build(ReviewKD(teacher, student))
    outputs = networks.outputs(loss)
    ours, theirs = ([*output.maps, output.embedding[:, :, None, None]] for output in outputs)  # type: ignore[index]
    parameters = {name.removeprefix("fusion.blocks."): value for name, value in loss.named_parameters()}
    expected = reference.review(ours, theirs, parameters)
    torch.testing.assert_close(loss(*outputs), expected, rtol=0, atol=1e-9, check_dtype=False)


def test_the_width_is_that_of_the_students_embedding_up_to_the_limit() -> None:
    networks = pair(student_width=3)
    widths = [networks.build(ReviewKD([FIRST], max_width=n)).fusion.blocks[0].inwards[0].out_channels for n in (512, 4)]
    assert widths == [6, 4]


def test_gradients_reach_student_and_all_blocks_and_the_teacher_stays() -> None:
    networks = pair()
    loss = networks.build(ReviewKD([FIRST, MIDDLE, LAST]))
    loss(*networks.outputs(loss)).backward()
    assert without_gradient(networks.student, loss) == {f"student network.linear.{n}" for n in ("weight", "bias")}
    assert all(one.grad is None for one in networks.teacher.parameters())


@pytest.mark.parametrize(("warmup", "progress", "share"), [(0.5, 0.0, 0.0), (0.5, 0.25, 0.5), (0.5, 0.9, 1), (0, 0, 1)])
def test_the_weight_rises_with_the_run(warmup: float, progress: float, share: float) -> None:
    networks = pair()
    loss = networks.build(ReviewKD([LAST], warmup=warmup))
    assert loss.needs_progress == (warmup > 0)
    outputs = networks.outputs(loss)
    value, whole = (loss(*outputs, context=networks.context(progress=p)) for p in (progress, 1.0))
    assert whole.item() > 0.1
    torch.testing.assert_close(value, share * whole)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"teacher_maps": []}, "name the modules in pairs"),
        ({"teacher_maps": ["a"], "warmup": 20}, r"warmup: expected a share of the run in \[0, 1\], got 20"),
        ({"teacher_maps": ["a"], "max_width": 0}, "max_width: expected at least 1 channel, got 0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ReviewKD(**arguments)


def test_an_output_that_is_no_map_is_refused_at_setup() -> None:
    with pytest.raises(ValueError, match=r"ReviewKD: expected modules whose outputs are maps .* returns \(N, 3\)"):
        pair().build(ReviewKD(["linear"]))
