from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.augment import CutMix, Mixing, Mixup, RandomMixing, mixing, take
from lightning_condkd.functional.cutmix import cutmix
from lightning_condkd.randomness import Draw
from tests.reference import mixing as reference

ALL = {
    "mixup": Mixup(),
    "mixup of the batch": Mixup(0.3, shared=True),
    "cutmix": CutMix(),
    "cutmix of the batch": CutMix(0.5, shared=True),
    "one of both": RandomMixing(),
}
STEP = Draw(seed=3, step=5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(n: int = 6, *shape: int) -> Tensor:
    return torch.rand(n, *(shape or (2, 6, 9)), generator=seeded(), dtype=torch.float64)


def test_mixup_is_the_weighted_mean() -> None:
    images, drawn = pixels(), Mixup().sample(6, STEP.generator("mixing"))
    expected = reference.mixup(images.flatten(1).tolist(), drawn["partner"].tolist(), drawn["share"].tolist())
    mixed = Mixup().mix(images, STEP, "mixing")
    torch.testing.assert_close(mixed.flatten(1), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_cutmix_takes_the_box_from_the_partner_and_nothing_else() -> None:
    images, drawn = pixels(), CutMix().sample(6, STEP.generator("mixing"))
    mixed = CutMix().mix(images, STEP, "mixing")
    boxes = zip(drawn["partner"].tolist(), drawn["share"].tolist(), drawn["center"].tolist(), strict=True)
    for row, (partner, share, center) in enumerate(boxes):
        for y in range(6):
            for x in range(9):
                source = partner if reference.inside(y, x, 6, 9, share, center) else row
                assert torch.equal(mixed[row, :, y, x], images[source, :, y, x])


def test_the_share_in_a_label_is_the_exact_area_of_the_cut_box() -> None:
    drawn = CutMix().sample(50, seeded())
    found = CutMix().shares(drawn, (7, 12)).tolist()
    boxes = zip(drawn["share"].tolist(), drawn["center"].tolist(), strict=True)
    expected = [reference.cutmix_area(7, 12, share, center) for share, center in boxes]
    assert found == expected
    assert any(
        area < share - 0.1 for area, share in zip(expected, drawn["share"].tolist(), strict=True)
    )  # some are cut


@pytest.mark.parametrize("name", ALL)
def test_shares_are_the_means_of_the_weights(name: str) -> None:
    drawn = ALL[name].sample(20, seeded())
    weights = ALL[name].weights(drawn, (5, 8), torch.device("cpu")).double()
    torch.testing.assert_close(ALL[name].shares(drawn, (5, 8)), weights.mean((1, 2, 3)), rtol=0, atol=1e-12)


def test_one_box_for_the_batch_is_the_published_cutmix() -> None:
    images, drawn = pixels(6, 3, 12, 8).float(), CutMix(shared=True).sample(6, seeded(2))
    share, center = float(drawn["share"][0]), tuple(drawn["center"][0].tolist())
    expected, area = cutmix(images, drawn["partner"], share, center)
    assert torch.equal(CutMix(shared=True)(images, images[drawn["partner"]], drawn), expected)
    assert CutMix(shared=True).shares(drawn, (12, 8)).tolist() == [area] * 6


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("soft", [False, True])
def test_labels_are_mixed_in_the_proportions_of_the_images(name: str, soft: bool) -> None:
    labels = torch.tensor([2, 0, 1, 1, 2, 0])
    given = torch.rand(6, 3, generator=seeded(), dtype=torch.float64).softmax(1) if soft else labels
    drawn = ALL[name].sample(6, STEP.generator("mixing"))
    rows = given.tolist() if soft else torch.eye(3)[labels].tolist()
    expected = reference.mixed_labels(rows, drawn["partner"].tolist(), ALL[name].shares(drawn, (6, 9)).tolist())
    mixed = ALL[name].mix_labels(given, 3, (6, 9), STEP, "mixing")
    atol = 1e-9 if soft else 1e-6
    torch.testing.assert_close(mixed.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=atol)


@pytest.mark.parametrize("name", ALL)
def test_labels_belong_to_the_mixtures_of_the_same_draw(name: str) -> None:
    values = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=torch.float64)
    mixed = ALL[name].mix(values.view(4, 1, 1, 1).expand(4, 1, 8, 8), STEP, "mixing").mean((1, 2, 3))
    labels = ALL[name].mix_labels(torch.eye(4, dtype=torch.float64), 4, (8, 8), STEP, "mixing")
    torch.testing.assert_close(labels @ values, mixed)


@pytest.mark.parametrize("name", ALL)
def test_two_ranks_make_the_mixtures_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pixels(), torch.tensor([2, 0, 1, 1, 2, 0])
    whole = ALL[name].mix(images, STEP, "mixing")
    wholes = ALL[name].mix_labels(labels, 3, (6, 9), STEP, "mixing")
    probabilities = torch.eye(3)[labels]
    for rank in range(2):
        draw = STEP._replace(rank=rank, world_size=2)
        monkeypatch.setattr(
            mixing.distributed, "gather_rows", lambda rows: images if rows.dim() == 4 else probabilities
        )
        assert torch.equal(ALL[name].mix(images[draw.rows], draw, "mixing"), whole[draw.rows])
        assert torch.equal(ALL[name].mix_labels(labels[draw.rows], 3, (6, 9), draw, "mixing"), wholes[draw.rows])


def test_ranks_that_are_not_there_and_gradients_between_ranks_are_refused() -> None:
    draw = STEP._replace(world_size=2)
    with pytest.raises(ValueError, match="world_size=1, the processes of the group, got 2"):
        Mixup().mix(pixels(), draw, "mixing")
    with pytest.raises(ValueError, match="detach"):
        Mixup().mix(pixels().requires_grad_(), draw, "mixing")


@pytest.mark.parametrize("name", ALL)
def test_mixtures_are_differentiable_in_all_images(name: str) -> None:
    images = pixels(3, 1, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ALL[name].mix(x, STEP, "mixing"), images)
    shares = ALL[name].shares(ALL[name].sample(3, STEP.generator("mixing")), (4, 4))
    partner = ALL[name].sample(3, STEP.generator("mixing"))["partner"]
    ALL[name].mix(images, STEP, "mixing").sum().backward()
    expected = (1 - shares).index_add(0, partner, shares) * 16  # of what an image gives, as itself and as a partner
    torch.testing.assert_close(images.grad.sum((1, 2, 3)), expected)


@pytest.mark.parametrize("name", ALL)
def test_parameters_come_from_the_generator_alone(name: str) -> None:
    state = torch.random.get_rng_state()
    first, second, other = (ALL[name].sample(8, seeded(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) and len(first[key]) == 8 for key in first)
    assert not torch.equal(first["partner"], other["partner"])
    assert sorted(first["partner"].tolist()) == list(range(8))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(("alpha", "deviation"), [(1.0, 1 / 12**0.5), (0.2, 0.5 / 1.4**0.5)])
def test_shares_have_the_spread_of_the_beta_distribution(alpha: float, deviation: float) -> None:
    for one in (Mixup(alpha), CutMix(alpha)):
        share = one.sample(4000, seeded())["share"]
        assert share.mean().item() == pytest.approx(0.5, abs=0.02)
        assert share.std().item() == pytest.approx(deviation, abs=0.01)


def test_every_image_has_its_own_parameters_unless_shared() -> None:
    for kind, keys in ((Mixup, ["share"]), (CutMix, ["share", "center"])):
        own, shared = kind().sample(8, seeded()), kind(shared=True).sample(8, seeded())
        assert all(len(own[key].unique(dim=0)) == 8 and len(shared[key].unique(dim=0)) == 1 for key in keys)


def test_both_mixings_are_chosen_about_equally_often() -> None:
    generator, both = seeded(), RandomMixing()
    chosen = [both.sample(4, generator) for _ in range(400)]
    assert all(("center" in drawn) == bool(drawn["choice"][0]) for drawn in chosen)
    assert 160 < sum(int(drawn["choice"][0]) for drawn in chosen) < 240


def test_half_precision_is_mixed_in_full() -> None:
    images, drawn = pixels().bfloat16(), Mixup().sample(6, seeded())
    half = Mixup()(images, images[drawn["partner"]], drawn)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, Mixup()(images.float(), images.float()[drawn["partner"]], drawn).bfloat16())


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_an_alpha_that_is_none_is_refused(kind: type[Mixing], alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha: expected a positive"):
        kind(alpha)  # type: ignore[call-arg]


def test_no_mixing_to_choose_from_is_refused() -> None:
    with pytest.raises(ValueError, match="mixings: expected at least one"):
        RandomMixing([])


def test_images_that_do_not_fit_are_refused() -> None:
    images, drawn = pixels(), Mixup().sample(6, seeded())
    with pytest.raises(ValueError, match="divide uint8 by 255"):
        Mixup()((images * 255).byte(), images, drawn)
    with pytest.raises(ValueError, match="partners: expected"):
        Mixup()(images, images[:3], drawn)
    with pytest.raises(ValueError, match="expected 6 rows, got 3"):
        Mixup()(images, images, take(drawn, slice(3)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, -1]), "fill in the teacher's predictions"),
        (torch.tensor([0, 3]), "from 0 to 2, got .* 0 to 3"),
        (torch.tensor([[0], [1]]), "expected classes"),
        (torch.rand(2, 4), "expected probabilities"),
    ],
)
def test_labels_that_are_none_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixup().mix_labels(labels, 3, (8, 8), STEP, "mixing")
