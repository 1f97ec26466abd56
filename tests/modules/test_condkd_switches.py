"""Each part of Fast acts from the round on that it should, and what is switched off leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_condkd.alignment import FeatureAlignment, ProjectionDiscriminator
from lightning_condkd.augment import DifferentiableAugment
from lightning_condkd.inversion import GeneratorSettings
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.rounds import Cadence
from tests.helpers import toy


def _differs(a: toy.Run, b: toy.Run, round_: int) -> bool:
    return not torch.equal(a.bank.images[a.bank.rounds == round_], b.bank.images[b.bank.rounds == round_])


@pytest.fixture(scope="module")
def plain() -> toy.Run:
    """Fast with all its terms, no alignment, one warm-up round."""
    return toy.fit(toy.condkd())


@pytest.mark.parametrize(
    ("switch", "first_round"),
    [
        ({"class_weight": 0.0}, 0),
        ({"bn_weight": 0.0}, 0),
        ({"adversarial_weight": 0.0}, 1),  # after the warm-up round
        ({"bn_momentum": 0.0}, 1),  # the first block has no moving average yet
        ({"meta_update": "reptile"}, 1),  # the first block starts from the same meta-generator
        ({"reset_round": 0}, 1),  # counted from the end of the warm-up
        ({"reset_round": 1}, 2),
    ],
    ids=lambda value: str(value),
)
def test_a_switch_acts_from_its_round_on(plain: toy.Run, switch: dict[str, Any], first_round: int) -> None:
    other = toy.fit(toy.condkd(toy.fast(**switch)))
    assert [_differs(plain, other, round_) for round_ in range(3)] == [round_ >= first_round for round_ in range(3)]
    assert not toy.same(toy.student_of(plain), toy.student_of(other))


def test_reset_after_the_last_round_changes_nothing(plain: toy.Run) -> None:
    assert toy.same(plain.state(), toy.fit(toy.condkd(toy.fast(reset_round=2))).state())


def test_selection_decides_what_is_kept_and_not_how_the_generator_learns() -> None:
    """Before the student learns from the stored images, only they differ."""
    warm, later = (
        [
            toy.fit(toy.condkd(toy.fast(selection=s, generator=GeneratorSettings(lr=0.3), **without)))
            for s in ("total_loss", "last")
        ]
        for without in ({"cadence": Cadence(4, 0, warmup_rounds=3)}, {})
    )
    assert _differs(*warm, 0)
    assert toy.same(*(dict(run.model.inversion.meta.state_dict()) for run in warm))
    assert toy.same(*map(toy.student_of, warm))
    assert not toy.same(*map(toy.student_of, later))


def test_selection_by_inversion_loss_ignores_the_alignment_term() -> None:
    discriminator = ProjectionDiscriminator()
    runs = {
        selection: toy.fit(
            toy.condkd(
                toy.fast(selection=selection, cadence=Cadence(4, 0)), FeatureAlignment(discriminator, weight=300.0)
            ),
            max_epochs=1,
        )
        for selection in ("total_loss", "inversion_loss")
    }
    assert _differs(*runs.values(), 0)
    metas = [dict(run.model.inversion.meta.state_dict()) for run in runs.values()]
    assert toy.same(*metas)
    kept = [float(run.model.inversion.kept_loss) for run in runs.values()]
    assert kept[0] > 100 > kept[1]  # the alignment term is in the first alone


def test_the_seed_decides_the_run(plain: toy.Run) -> None:
    assert toy.same(plain.state(), toy.fit(toy.condkd()).state())
    other = toy.condkd()
    other.seed = toy.SEED + 1
    assert not torch.equal(toy.fit(other).bank.images, plain.bank.images)


def test_alignment_of_weight_zero_leaves_no_trace(plain: toy.Run) -> None:
    for mix, reference in (("union", plain), (0.0, toy.fit(toy.condkd(), mix=0.0))):
        run = toy.fit(toy.condkd(alignment=FeatureAlignment(weight=0.0)), mix=mix)
        assert toy.same(run.state(), reference.state())
        assert run.metrics == reference.metrics


def test_alignment_with_a_weight_does_act(plain: toy.Run) -> None:
    run = toy.fit(toy.condkd(alignment=FeatureAlignment(weight=1.0)))
    assert _differs(run, plain, 0)


def test_a_ramp_acts_from_its_second_round_on(plain: toy.Run) -> None:
    """In the first round the discriminator learns and nobody listens; at the end of the ramp the weight is whole."""
    run, full = (toy.fit(toy.condkd(alignment=FeatureAlignment(weight=1.0, ramp_rounds=n))) for n in (2, 0))
    assert [_differs(run, plain, round_) for round_ in range(3)] == [False, True, True]
    assert _differs(run, full, 0)


@pytest.mark.parametrize(("mix", "equal"), [(0.0, True), ("union", False)])
def test_without_mixing_and_alignment_the_condensed_images_do_not_matter(mix: str | float, equal: bool) -> None:
    runs = [toy.fit(toy.condkd(), mix=mix, condensed=toy.condensed_set(name)) for name in ("condensed", "others")]
    assert torch.equal(runs[0].bank.images[:12], runs[1].bank.images[:12])
    assert toy.same(runs[0].state(), runs[1].state()) is equal


def test_with_alignment_the_condensed_images_matter_though_they_are_not_mixed_in() -> None:
    runs = [
        toy.fit(toy.condkd(alignment=FeatureAlignment()), mix=0.0, condensed=toy.condensed_set(name))
        for name in ("condensed", "others")
    ]
    assert _differs(*runs, 0)


def test_no_two_draws_share_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every purpose opens its own stream once a step: condensed and synthetic images get independent views."""
    opened: list[tuple[str, int]] = []

    def open_stream(seed: int, purpose: str, step: int = 0) -> torch.Generator:
        opened.append((purpose, step))
        return seeded_generator(seed, purpose, step)

    model = toy.condkd(toy.fast(reset_round=0), FeatureAlignment(augment=DifferentiableAugment(("cutout",))))
    monkeypatch.setattr("lightning_condkd.randomness.seeded_generator", open_stream)
    toy.fit(model)
    assert len(opened) == len(set(opened))
    in_synthesis = {purpose for purpose, step in opened if step == toy.CADENCE.length}
    assert len(in_synthesis) == 7  # latents, labels, reset, three views, matching
