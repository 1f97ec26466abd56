from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional import relations as functional
from tests.helpers.outputs import assert_same, random_tensor, rotation
from tests.reference import relations as reference

PAIRS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "SP": (functional.similarity_preserving, reference.sp),
    "RKD distance": (functional.relational_distance, reference.rkd_distance),
    "RKD angle": (functional.relational_angle, reference.rkd_angle),
    "PKT": (functional.probabilistic_transfer, reference.pkt),
}
STUDENT, TEACHER = random_tensor("student", 5, 4), random_tensor("teacher", 5, 7)


@pytest.mark.parametrize("name", PAIRS)
def test_losses_and_gradients_follow_the_formula(name: str) -> None:
    ours, theirs = PAIRS[name]
    assert_same(ours(STUDENT, TEACHER), theirs(STUDENT, TEACHER), [STUDENT, TEACHER])


def test_distances_far_apart_count_linearly() -> None:
    """The other half of the smooth L1 distance: one image is far off for the student only."""
    far = STUDENT + torch.tensor([[9.0], [0], [0], [0], [0]]).double()
    ours, theirs = functional.relational_distance(far, TEACHER), reference.rkd_distance(far, TEACHER)
    assert_same(ours, theirs, [STUDENT, TEACHER])


def test_similarities_of_maps_are_those_of_their_vectors() -> None:
    maps = random_tensor("maps", 5, 3, 2, 2)
    expected = reference.sp(maps.flatten(1), TEACHER)
    assert_same(functional.similarity_preserving(maps, TEACHER), expected, [maps, TEACHER])


@pytest.mark.parametrize("name", PAIRS)
def test_rotation_and_scale_do_not_count(name: str) -> None:
    moved = -3 * TEACHER @ rotation("turn", 7)
    assert PAIRS[name][0](moved, TEACHER).abs() < 1e-9
    assert PAIRS[name][0](TEACHER.square(), TEACHER).abs() > 1e-5


@pytest.mark.parametrize("name", PAIRS)
def test_a_shift_counts_for_similarities_but_not_for_distances_and_angles(name: str) -> None:
    value = PAIRS[name][0](TEACHER + 2, TEACHER).abs()
    assert value < 1e-12 if "RKD" in name else value > 1e-5


@pytest.mark.parametrize("name", PAIRS)
def test_equal_embeddings_and_single_images_give_finite_gradients(name: str) -> None:
    for rows in ([0, 0, 1], [0, 0, 0], [0]):
        student = STUDENT.detach().float()[rows].requires_grad_()
        loss = PAIRS[name][0](student, TEACHER.detach().float()[: len(rows)])
        loss.backward()
        assert loss.isfinite()
        assert student.grad is not None
        assert student.grad.abs().max() < 1e3


def test_small_distances_keep_their_digits() -> None:
    """As between embeddings that share a large part: the products of such embeddings leave only noise in float32."""
    near = 100 + 0.01 * STUDENT.detach()
    rounded = near.float()
    exact = functional.relational_distance(rounded.double(), TEACHER)
    assert abs(functional.relational_distance(rounded, TEACHER.float()) / exact - 1) < 1e-4


@pytest.mark.parametrize("name", PAIRS)
def test_precision_around_does_not_matter(name: str) -> None:
    student, teacher = STUDENT.float(), TEACHER.float()
    exact = PAIRS[name][0](student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(PAIRS[name][0](student, teacher), exact)
    assert PAIRS[name][0](student.bfloat16(), teacher.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", PAIRS)
def test_other_batches_and_scalars_are_refused(name: str) -> None:
    for student in (STUDENT[:2], STUDENT[:, 0]):
        with pytest.raises(ValueError, match="of student and teacher of the same images, got"):
            PAIRS[name][0](student, TEACHER)
