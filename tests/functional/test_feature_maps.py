from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional.feature_maps import gaussian_nll, hierarchical_context, map_error, pool_to_smaller
from lightning_condkd.randomness import seeded_generator
from tests.reference import feature_losses as reference


def _maps(purpose: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded_generator(0, purpose), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_hierarchical_context_and_its_gradient_follow_the_formula(size: int) -> None:
    student, teacher = _maps("student", 2, 3, size, size), _maps("teacher", 2, 3, size, size)
    ours, theirs = hierarchical_context([student], [teacher]), reference.hierarchical_context([student], [teacher])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    (a,), (b,) = (torch.autograd.grad(value, student) for value in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_hierarchical_context_is_summed_over_the_stages() -> None:
    pairs = [(_maps(f"s{n}", 2, 3, n, n), _maps(f"t{n}", 2, 3, n, n)) for n in (4, 8)]
    apart = sum(hierarchical_context([s], [t]) for s, t in pairs)
    torch.testing.assert_close(hierarchical_context(*zip(*pairs, strict=True)), apart)


def test_pooling_takes_the_smaller_height_and_the_smaller_width() -> None:
    first, second = pool_to_smaller(_maps("first", 2, 3, 8, 2), _maps("second", 2, 5, 4, 4))
    assert (first.shape, second.shape) == ((2, 3, 4, 2), (2, 5, 4, 2))
    torch.testing.assert_close(first, reference.pool(_maps("first", 2, 3, 8, 2), 4, 2))


def test_half_precision_does_not_overflow() -> None:
    large = torch.full((1, 2, 4, 4), 6e4, dtype=torch.float16)
    assert map_error(large, -large).item() == pytest.approx(120_000.0**2, rel=1e-2)
    assert hierarchical_context([large], [-large]).isfinite()
    assert gaussian_nll(large, torch.ones(2), -large).isfinite()


def test_maps_that_do_not_fit_are_refused() -> None:
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"expected maps of one shape, got \(2, 3, 4, 4\) and \(2, 1, 4, 4\)"):
        map_error(maps, maps[:, :1])
    with pytest.raises(ValueError, match=r"a variance \(C,\), got .* and \(4,\)"):
        gaussian_nll(maps, torch.ones(4), maps)
    for ours, theirs in (([], []), ([maps], [maps, maps])):
        with pytest.raises(ValueError, match="expected as many maps of the student as of the teacher, one at least"):
            hierarchical_context(ours, theirs)
