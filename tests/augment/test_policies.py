from collections.abc import Callable

import pytest
import torch

from lightning_condkd.augment import (
    Augment,
    CropFlip,
    DifferentiableAugment,
    RollFlip,
    SiameseAugment,
    resolve_augment,
    take,
)
from lightning_condkd.randomness import Draw, seeded_generator
from tests.reference import deep_inversion as reference

AUGMENTS: list[Callable[[], Augment]] = [
    CropFlip,
    RollFlip,
    lambda: RollFlip(3, shared=False),
    lambda: DifferentiableAugment(("color", "translation", "cutout", "flip")),
    SiameseAugment,
    *(lambda name=name: SiameseAugment(name) for name in ("color", "crop", "cutout", "flip", "scale", "rotate")),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("make", AUGMENTS)
def test_one_row_serves_any_batch_as_if_repeated(make: Callable[[], Augment]) -> None:
    augment, images = make(), torch.rand(5, 3, 9, 9, generator=seeded())
    shared = augment.sample(1, seeded())
    repeated = {name: values.expand(5, *values.shape[1:]) for name, values in shared.items()}
    assert torch.allclose(augment(images, shared), augment(images, repeated), rtol=0, atol=1e-6)
    assert torch.allclose(augment(images[3:4], shared), augment(images, shared)[3:4], rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", AUGMENTS)
def test_rows_of_the_global_batch_equal_the_batch_of_the_rows(make: Callable[[], Augment]) -> None:
    augment, images = make(), torch.rand(7, 3, 9, 9, generator=seeded())
    parameters, rows = augment.sample(7, seeded(1)), slice(1, None, 2)
    whole = augment(images, parameters)[rows]
    assert torch.allclose(augment(images[rows], take(parameters, rows)), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", AUGMENTS)
def test_images_outside_the_unit_interval_are_neither_clipped_nor_cut_off_from_gradients(
    make: Callable[[], Augment],
) -> None:
    augment = make()
    images = (6 * torch.rand(2, 3, 32, 32, generator=seeded(), dtype=torch.float64) - 3).requires_grad_()
    # A row without cutout and with a small move: nothing hides more than a strip or the square.
    out = augment(images, augment.sample(2, seeded(3)))
    out.square().sum().backward()
    assert out.dtype == images.dtype
    assert out.amax() > 1.2
    assert out.amin() < -0.2
    assert images.grad is not None
    assert (images.grad != 0).double().mean() > 0.5


@pytest.mark.parametrize("make", AUGMENTS)
def test_parameters_come_from_the_generator_alone(make: Callable[[], Augment]) -> None:
    augment, state = make(), torch.random.get_rng_state()
    first, second, other = augment.sample(64, seeded()), augment.sample(64, seeded()), augment.sample(64, seeded(1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(len(values) == 64 and values.device.type == "cpu" for values in first.values())


def test_crop_flip_draws_every_shift_and_both_sides() -> None:
    parameters = CropFlip(padding=2).sample(500, seeded())
    assert set(parameters["shift"].flatten().tolist()) == {-2, -1, 0, 1, 2}
    assert 0.4 < parameters["flip"].float().mean() < 0.6


def test_crop_flip_without_padding_and_flip_is_the_identity() -> None:
    augment, images = CropFlip(padding=0, flip_probability=0.0), torch.rand(3, 1, 5, 5)
    assert torch.equal(augment(images, augment.sample(3, seeded())), images)


def test_roll_flip_moves_the_whole_batch_alike() -> None:
    augment = RollFlip(pixels=3)
    draws = [augment.sample(5, seeded(seed)) for seed in range(100)]
    assert all(len(draw["roll"].unique(dim=0)) == len(draw["flip"].unique()) == 1 for draw in draws)
    assert torch.stack([draw["roll"][0] for draw in draws]).unique().tolist() == list(range(-3, 4))
    assert 0.3 < torch.stack([draw["flip"][0] for draw in draws]).float().mean() < 0.7
    assert all(torch.equal(draw["roll"][:1], augment.sample(1, seeded(n))["roll"]) for n, draw in enumerate(draws))


def test_roll_flip_can_move_each_image_by_itself() -> None:
    parameters = RollFlip(pixels=2, shared=False).sample(300, seeded())
    assert len(parameters["roll"].unique(dim=0)) == 25
    assert 0.4 < parameters["flip"].float().mean() < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared", [True, False])
def test_roll_flip_loses_no_pixel(shared: bool, dtype: torch.dtype) -> None:
    augment = RollFlip(pixels=11, shared=shared)  # more than the image has
    images = torch.randn(6, 2, 5, 9, generator=seeded()).to(dtype).requires_grad_()
    parameters = augment.sample(6, seeded(2))
    moved = augment(images, parameters)
    for n, (roll, mirrored) in enumerate(zip(parameters["roll"].tolist(), parameters["flip"].tolist(), strict=True)):
        expected = reference.roll(images[n : n + 1], *roll)
        assert torch.equal(moved[n : n + 1], expected.flip(3) if mirrored else expected)
    (gradient,) = torch.autograd.grad(moved.sum(), images)
    assert torch.equal(gradient, torch.ones_like(images))


def test_roll_flip_accepts_a_rank_without_images() -> None:
    for shared in (True, False):
        augment = RollFlip(shared=shared)
        parameters = take(augment.sample(1, seeded()), slice(1, None))
        assert augment(torch.empty(0, 1, 8, 8), parameters).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("arguments", [{"pixels": -1}, {"flip_probability": -0.5}])
def test_bad_roll_arguments_are_named(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RollFlip(**arguments)  # type: ignore[arg-type]


def test_differentiable_augment_applies_operators_in_order() -> None:
    images = torch.rand(6, 3, 8, 8, generator=seeded())
    both = DifferentiableAugment(("color", "cutout"))
    parameters = both.sample(6, seeded(1))
    one_by_one = DifferentiableAugment(("cutout",))(DifferentiableAugment(("color",))(images, parameters), parameters)
    assert torch.equal(both(images, parameters), one_by_one)
    assert not torch.equal(DifferentiableAugment(("cutout", "color"))(images, parameters), one_by_one)


def test_leaving_out_an_operator_does_not_change_what_others_draw() -> None:
    all_of_them = DifferentiableAugment(("color", "translation", "cutout", "flip")).sample(4, seeded())
    one = DifferentiableAugment(("flip",)).sample(4, seeded())
    assert all(torch.equal(one[name], all_of_them[name]) for name in one)


def test_strengths_bound_the_draws() -> None:
    parameters = SiameseAugment().sample(2000, seeded())
    bounds = {"brightness": (-0.1, 0.1), "saturation": (0, 2), "contrast": (0.5, 1.5), "scale": (1 / 1.2, 1.2)}
    for name, (low, high) in bounds.items():
        width = high - low
        assert low <= parameters[name].min() < low + 0.02 * width
        assert high - 0.02 * width < parameters[name].max() <= high
    assert 14.5 < torch.rad2deg(parameters["angle"]).abs().max() <= 15


def test_siamese_augment_draws_one_operator_for_a_batch_and_all_in_time() -> None:
    augment = SiameseAugment()
    draws = [augment.sample(5, seeded(seed))["operator"] for seed in range(100)]
    assert all(len(set(draw.tolist())) == 1 for draw in draws)
    assert {int(draw[0]) for draw in draws} == set(range(6))


def test_siamese_augment_accepts_a_rank_without_images() -> None:
    augment = SiameseAugment()
    assert augment(torch.empty(0, 1, 8, 8), take(augment.sample(1, seeded()), slice(1, None))).shape == (0, 1, 8, 8)


def test_policies_by_name_have_the_strength_that_normalised_pixels_have_in_the_published_code() -> None:
    mean, std = [0.2, 0.4, 0.6], [0.1, 0.2, 0.3]
    augment = resolve_augment("dsa", mean, std)
    assert isinstance(augment, SiameseAugment)
    assert augment.policy == ("color", "crop", "cutout", "flip", "scale", "rotate")
    assert augment.strength == pytest.approx(SiameseAugment(fill=0.4, brightness=0.1).strength)
    for name, mirrored in (("dsa", True), ("dsa_digits", False)):
        digits = resolve_augment(name, [0.1], [0.3], mirrored)  # type: ignore[arg-type]
        assert isinstance(digits, SiameseAugment)
        assert digits.policy == ("color", "crop", "cutout", "scale", "rotate")
        assert digits.strength[:1] == (0.15,)
        assert digits.strength.fill == 0.1
    own = CropFlip(2)
    assert resolve_augment(own, mean, std, mirrored=True) is own
    assert resolve_augment(None, mean, std) is resolve_augment("none", mean, std) is None
    with pytest.raises(ValueError, match="expected an Augment, None or one of dsa, dsa_digits, none, got 'dsb'"):
        resolve_augment("dsb", mean, std)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [lambda: SiameseAugment("color_jitter"), lambda: DifferentiableAugment(())])
def test_unknown_or_empty_policies_are_refused(call: Callable[[], Augment]) -> None:
    with pytest.raises(ValueError, match="policy: expected one or more of"):
        call()


@pytest.mark.parametrize("arguments", [{"padding": -1}, {"flip_probability": 1.5}])
def test_bad_crop_arguments_are_named(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        CropFlip(**arguments)  # type: ignore[arg-type]


def test_integer_pixels_and_wrong_rows_are_refused() -> None:
    augment = CropFlip()
    parameters = augment.sample(3, seeded())
    with pytest.raises(ValueError, match="divide uint8 by 255"):
        augment(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), parameters)
    with pytest.raises(ValueError, match=r"expected 1 or 4 rows, got \[3\]"):
        augment(torch.zeros(4, 1, 8, 8), parameters)


def test_a_view_is_alike_on_any_number_of_ranks_and_independent_for_every_purpose_and_step() -> None:
    augment = DifferentiableAugment()
    images = torch.rand(6, 3, 8, 8, generator=seeded_generator(0, "images")).requires_grad_()
    whole = augment.view(images, Draw(0, 5), "synthetic")
    assert not torch.equal(whole, augment.view(images, Draw(0, 5), "condensed"))
    assert not torch.equal(whole, augment.view(images, Draw(0, 6), "synthetic"))
    for rank in range(2):
        draw = Draw(0, 5, rank, world_size=2)
        assert torch.equal(augment.view(images[draw.rows], draw, "synthetic"), whole[draw.rows])
    (gradient,) = torch.autograd.grad(whole.sum(), images)
    assert gradient.abs().sum() > 0
