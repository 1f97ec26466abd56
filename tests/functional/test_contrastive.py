from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.functional.contrastive import contrastive_estimate, contrastive_loss, draw_other_classes
from lightning_condkd.randomness import seeded_generator
from tests.reference import contrastive as reference


def _vectors(remembered: int = 4) -> list[Tensor]:
    """Local and global views of six images, then of remembered ones."""
    generator = seeded_generator(0, "views")
    sizes = (6, 6, remembered, remembered)
    rows = [torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in sizes]
    return [F.normalize(part, dim=1).requires_grad_() for part in rows]


@pytest.mark.parametrize("remembered", [4, 0])
def test_the_loss_follows_the_formula(remembered: int) -> None:
    vectors = _vectors(remembered)
    ours = contrastive_loss(*vectors, temperature=0.3)
    theirs = reference.contrastive_loss(*(list(rows) for rows in vectors), temperature=0.3)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    leaves = [rows for rows in (vectors[0], vectors[2]) if len(rows)]
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_global_views_are_constants() -> None:
    vectors = _vectors()
    loss = contrastive_loss(*vectors, temperature=0.3)
    assert torch.autograd.grad(loss, [vectors[1], vectors[3]], allow_unused=True) == (None, None)


def test_the_loss_is_the_mean_over_ranks() -> None:
    local, main, *bank = _vectors()
    whole = contrastive_loss(local, main, *bank, temperature=0.3)
    own = torch.arange(6)
    parts = [contrastive_loss(local[r::2], main, *bank, temperature=0.3, own=own[r::2]) for r in range(2)]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_views_that_find_each_other_cost_nothing_and_alike_ones_the_logarithm_of_their_number() -> None:
    views, alike = torch.eye(5), torch.ones(5, 1)
    assert contrastive_loss(views[:3], views[:3], views[3:], views[3:], temperature=0.01) == 0
    loss = contrastive_loss(alike[:3], alike[:3], alike[3:], alike[3:], temperature=0.01)
    torch.testing.assert_close(loss, 2 * torch.tensor(5.0).log())


def test_half_precision_is_widened() -> None:
    vectors = [rows.detach().float() for rows in _vectors()]
    expected = contrastive_loss(*vectors, temperature=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrastive_loss(*vectors, temperature=0.1), expected)
    half = contrastive_loss(*(rows.bfloat16() for rows in vectors), temperature=0.1)
    assert half.dtype == torch.float32


def test_contrastive_estimate_is_the_formula_with_its_gradient() -> None:
    generator = seeded_generator(0, "estimate")
    scores = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    own, drawn, noise = [2, 0, 3], [[1, 0, 0, 2], [0, 3, 0, 0], [0, 0, 0, 0]], 0.4
    expected = torch.zeros(())
    for i in range(3):
        h = [s.exp() / (s.exp() + noise) for s in scores[i]]
        expected = expected - torch.log(h[own[i]])
        expected = expected - sum(n * torch.log(1 - one) for n, one in zip(drawn[i], h, strict=True))
    ours = contrastive_estimate(scores, torch.tensor(own), torch.tensor(drawn), noise)
    torch.testing.assert_close(ours, expected / 3, rtol=0, atol=1e-10, check_dtype=False)
    (a,), (b,) = (torch.autograd.grad(value, scores) for value in (ours, expected / 3))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_contrastive_estimate_does_not_overflow_and_needs_noise() -> None:
    own, drawn = torch.tensor([0]), torch.tensor([[0.0, 1.0]])
    assert contrastive_estimate(torch.tensor([[-300.0, 300.0]]), own, drawn, 1.0).item() == pytest.approx(600)
    with pytest.raises(ValueError, match="noise: expected negatives / images, a positive number, got 0"):
        contrastive_estimate(torch.zeros(1, 2), own, drawn, 0)


def test_draws_fall_evenly_on_rows_of_other_classes() -> None:
    classes = torch.tensor([1, -1, 0, 1, 2, -1, 0])
    uniform = (torch.arange(8, dtype=torch.float64) / 8).expand(3, -1)
    counts = draw_other_classes(torch.tensor([0, 2, 4]), classes, uniform)
    assert counts.tolist() == [[0, 0, 3, 0, 2, 0, 3], [3, 0, 0, 3, 2, 0, 0], [2, 0, 2, 2, 0, 0, 2]]


def test_without_another_class_other_rows_are_drawn_and_without_another_row_none() -> None:
    rows, uniform = torch.tensor([1]), torch.tensor([[0.0, 0.3, 0.99]])
    assert draw_other_classes(rows, torch.tensor([4, 4, 4, -1]), uniform).tolist() == [[2, 0, 1, 0]]
    assert draw_other_classes(rows, torch.tensor([-1, 4, -1, -1]), uniform).tolist() == [[0, 0, 0, 0]]
