from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.functional.attention import attention_map, attention_transfer
from lightning_condkd.randomness import seeded_generator
from tests.reference import generative as reference


def _maps(purpose: str, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = seeded_generator(0, purpose)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def test_attention_maps_follow_the_formula() -> None:
    (maps,) = _maps("maps", (3, 4, 2, 5))
    expected = torch.stack([torch.stack(reference.attention(image)) for image in maps])
    torch.testing.assert_close(attention_map(maps), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attention_map(maps).norm(dim=1), torch.ones(3).double())


def test_attention_transfer_and_its_gradients_follow_the_formula() -> None:
    """Channels may differ, as between a wide teacher and a narrow student."""
    student, teacher = _maps("student", (3, 2, 4, 4), (3, 4, 2, 3)), _maps("teacher", (3, 6, 4, 4), (3, 3, 2, 3))
    ours, theirs = attention_transfer(student, teacher), reference.attention_transfer(student, teacher)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12, check_dtype=False)
    leaves = [*student, *teacher]
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        assert a.abs().max() > 1e-4
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_attention_knows_neither_scale_nor_sign_nor_channel() -> None:
    (maps,) = _maps("maps", (3, 4, 2, 5))
    assert attention_transfer([maps], [-7 * maps.flip(1)]).item() == pytest.approx(0, abs=1e-12)
    assert attention_transfer([maps], [maps.flip(3)]).item() > 1e-3


def test_a_dead_layer_has_a_finite_gradient() -> None:
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = attention_transfer([dead], [torch.ones(2, 3, 4, 4)])
    loss.backward()
    assert loss.isfinite()
    assert dead.grad is not None
    assert dead.grad.isfinite().all()


def test_half_precision_does_not_overflow() -> None:
    large = torch.full((2, 3, 4, 4), 6e4, dtype=torch.float16)
    assert attention_map(large).dtype == torch.float32
    assert attention_transfer([large], [large]) == 0


@pytest.mark.parametrize(
    ("student", "teacher"),
    [([], []), ([(2, 3, 4, 4)], []), ([(2, 3, 4, 4)], [(2, 3, 2, 2)]), ([(2, 3)], [(2, 3)])],
    ids=["none", "unpaired", "resolution", "vectors"],
)
def test_maps_that_do_not_fit_are_refused(student: list[tuple[int, ...]], teacher: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="name blocks of the same resolution in both networks"):
        attention_transfer(*([torch.rand(shape) for shape in shapes] for shapes in (student, teacher)))
