from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd.distillation import DistillationLoss, LossContext, NormDirection, VkD
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw
from lightning_condkd.types import NetworkOutput
from tests.helpers import toy
from tests.helpers.outputs import LABELS, SAMPLES, assert_same, random_output, random_tensor
from tests.reference import relations as reference

MEANS = random_tensor("means", 5, 8).detach()


def networks(width: int) -> tuple[Observer, Observer]:
    """A teacher with embeddings of width 8, and a student with twice the given width."""
    teacher = toy.observed(toy.network("teacher", num_classes=5)).freeze()
    return teacher, toy.observed(toy.network("student", num_classes=5, width=width))


def built(loss: DistillationLoss, width: int) -> tuple[NetworkOutput, NetworkOutput]:
    """Build a loss in float64, and return random outputs of such networks."""
    loss.build(*networks(width), toy.SHAPE).double()
    if loss.needs_class_means:
        loss.set_class_means(MEANS)
    return random_output("student", width=2 * width), random_output("teacher", width=8)


def leaves(*outputs: NetworkOutput) -> list[Tensor]:
    return [output.embedding for output in outputs if output.embedding is not None]


# --- norm and direction ----------------------------------------------------------------------------------------------


def test_norm_direction_of_equal_widths_is_the_formula_without_parameters() -> None:
    loss = NormDirection()
    student, teacher = built(loss, width=4)
    both = leaves(student, teacher)
    assert_same(loss(student, teacher, LABELS), reference.norm_direction(*both, MEANS, LABELS), both)
    assert loss.embed is None
    assert not list(loss.parameters())
    assert not loss.parameter_groups()


def test_another_width_goes_through_batch_norm_and_a_linear_layer() -> None:
    loss = NormDirection(dropout=0.0)
    student, teacher = built(loss, width=3)
    both = leaves(student, teacher)
    assert loss.embed is not None
    weight, bias = loss.embed.weight, loss.embed.bias
    columns = []
    for column in both[0].T:
        center = column.sum() / SAMPLES
        columns.append((column - center) / torch.sqrt((column - center).square().sum() / SAMPLES + 1e-5))
    projected = torch.stack(columns, dim=1) @ weight.T + bias
    theirs = reference.norm_direction(projected, both[1], MEANS, LABELS)
    assert_same(loss(student, teacher, LABELS), theirs, [*both, weight, bias])


def test_dropout_is_drawn_from_the_step_and_ends_with_training() -> None:
    loss = NormDirection()
    student, teacher = built(loss, width=3)
    state = torch.get_rng_state()

    def at(step: int) -> Tensor:
        return loss(student, teacher, LABELS, LossContext(draw=Draw(0, step)))

    assert torch.equal(at(1), at(1))
    assert not torch.equal(at(1), at(2))
    assert state.equal(torch.get_rng_state())
    loss.eval()
    assert torch.equal(at(1), at(2))


def test_dropout_leaves_the_mean_and_differs_between_ranks() -> None:
    loss = NormDirection(dropout=0.25)
    built(loss, width=3)
    ones = torch.ones(512, 6)
    kept = []
    for rank in (0, 1):
        loss.context = LossContext(draw=Draw(0, 0, rank, 2))
        kept.append(loss._drop(ones))
    assert not torch.equal(*kept)
    for dropped in kept:
        assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
        assert dropped.mean() == pytest.approx(1.0, abs=0.05)


def test_norm_direction_says_what_is_missing() -> None:
    loss = NormDirection()
    student, teacher = random_output("student", width=8), random_output("teacher", width=8)
    with pytest.raises(RuntimeError, match="NormDirection: call build"):
        loss(student, teacher, LABELS)
    loss.build(*networks(4), toy.SHAPE)
    with pytest.raises(ValueError, match="NormDirection needs class means"):
        loss(student, teacher, LABELS)
    with pytest.raises(ValueError, match="NormDirection needs labels"):
        loss(student, teacher)


# --- V_kD ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [3, 4, 6], ids=["narrower", "equal", "wider"])
def test_vkd_is_the_formula_with_an_orthogonal_projection(width: int) -> None:
    loss = VkD()
    student, teacher = built(loss, width)
    weight = loss.projector.weight
    small = weight.T @ weight if width < 4 else weight @ weight.T
    torch.testing.assert_close(small, torch.eye(len(small)).double(), rtol=0, atol=1e-6)
    both = leaves(student, teacher)
    assert_same(loss(student, teacher), reference.vkd(*both, weight.detach()), both)


@pytest.mark.parametrize("width", [3, 4, 6], ids=["narrower", "equal", "wider"])
def test_the_projection_is_trained_and_stays_orthogonal(width: int) -> None:
    loss = VkD()
    student, teacher = (output._replace(embedding=e.detach()) for output, e in _with_embeddings(built(loss, width)))
    optimizer = torch.optim.SGD(loss.parameter_groups(), lr=1.0)
    before, first = loss.projector.weight.detach().clone(), loss(student, teacher).item()
    for _ in range(50):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    weight = loss.projector.weight.detach()
    small = weight.T @ weight if width < 4 else weight @ weight.T
    torch.testing.assert_close(small, torch.eye(len(small)).double(), rtol=0, atol=1e-6)
    assert (weight - before).abs().max() > 0.1
    assert loss(student, teacher).item() < 0.95 * first


def _with_embeddings(outputs: tuple[NetworkOutput, NetworkOutput]) -> list[tuple[NetworkOutput, Tensor]]:
    return list(zip(outputs, leaves(*outputs), strict=True))


def test_whitening_takes_the_place_of_layer_norm() -> None:
    loss = VkD("whitening")
    student, teacher = built(loss, width=4)
    both = leaves(student, teacher)
    centered = both[1].detach() - both[1].detach().mean(0)
    left, values, right = torch.linalg.svd(centered, full_matrices=False)
    scaled = values / torch.sqrt(values**2 / SAMPLES + 1e-5)
    target = left @ torch.diag(scaled) @ right
    projected = both[0] @ loss.projector.weight.T
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(projected.flatten(), target.flatten(), strict=True):
        total = total + reference.smooth_l1(a, b)
    torch.testing.assert_close(loss(student, teacher), total / target.numel(), rtol=0, atol=1e-9)


def test_autocast_does_not_round_the_projection() -> None:
    loss = VkD().build(*networks(3), toy.SHAPE)
    student, teacher = (
        NetworkOutput(torch.zeros(6, 5), random_tensor(name, 6, width).detach().float())
        for name, width in (("student", 6), ("teacher", 8))
    )
    exact = loss(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(student, teacher), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: NormDirection(dropout=1.0), r"dropout: expected a share in \[0, 1\), got 1.0"),
        (lambda: VkD("batch_norm"), "normalization: expected one of layer_norm, whitening, got 'batch_norm'"),  # type: ignore[arg-type]
    ],
)
def test_arguments_are_checked(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
