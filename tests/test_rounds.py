"""Division of a round into phases, and several synthesis batches in a block."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from lightning_condkd.inversion import DAFL
from lightning_condkd.rounds import Cadence, Unit
from tests.helpers import toy

NAYER = Cadence(40, 400, warmup_rounds=20, batches=2, warmup_batches=10)  # published for CIFAR-100


def _units(cadence: Cadence, round_: int) -> list[Unit]:
    return [cadence.unit(round_, position) for position in range(cadence.length)]


@pytest.mark.parametrize(("round_", "phases"), [(0, (400, 0, 80)), (19, (400, 0, 80)), (20, (80, 400, 0))])
def test_a_warmup_round_has_more_batches_and_as_many_units(round_: int, phases: tuple[int, ...]) -> None:
    found = Counter(unit.phase for unit in _units(NAYER, round_))
    assert (found["synthesize"], found["distill"], found["idle"]) == phases


@pytest.mark.parametrize("round_", [0, 20])
def test_every_batch_begins_and_ends(round_: int) -> None:
    synthesis = [unit for unit in _units(NAYER, round_) if unit.phase == "synthesize"]
    for name, step in (("first", 0), ("last", 39)):
        marked = [unit for unit in synthesis if getattr(unit, name)]
        assert [unit.step for unit in marked] == [step] * NAYER.batches_in(round_)
        assert [unit.batch for unit in marked] == list(range(NAYER.batches_in(round_)))
    others = [unit for unit in _units(NAYER, round_) if unit.phase != "synthesize"]
    assert [unit.step for unit in others] == list(range(len(others)))
    assert [unit.last for unit in others] == [False] * (len(others) - 1) + [True]


def test_batches_are_numbered_without_gap_over_the_run() -> None:
    cadence = Cadence(2, 5, repeats=2, warmup_rounds=2, batches=2, warmup_batches=3)
    begun = [
        unit for round_ in range(4) for unit in _units(cadence, round_) if unit.first and unit.phase == "synthesize"
    ]
    numbers = [cadence.batches_before(unit.round, unit.block, unit.batch) for unit in begun]
    assert numbers == list(range(2 * 2 * 3 + 2 * 2 * 2))
    assert cadence.batches_before(4) == len(begun)


def test_one_batch_is_the_usual_block() -> None:
    usual, explicit = Cadence(3, 4, repeats=2, warmup_rounds=1), Cadence(3, 4, 2, 1, batches=1, warmup_batches=1)
    assert [_units(usual, r) for r in range(3)] == [_units(explicit, r) for r in range(3)]
    assert {unit.batch for unit in _units(usual, 0)} == {0}


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ({"batches": 0}, "at least one synthesis batch"),
        ({"warmup_batches": 0}, "at least one synthesis batch"),
        ({"warmup_batches": 5}, r"has 8 units, as later ones, and 5 batches of 2 synthesis steps do not fit: lower"),
    ],
)
def test_batches_that_do_not_fit_are_refused(counts: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Cadence(2, 4, **{"batches": 2, **counts})


def test_a_live_method_has_one_batch() -> None:
    with pytest.raises(ValueError, match="every synthesis step of DAFL has new latents, so a block has one batch"):
        DAFL(cadence=Cadence(1, 1, batches=2))


def test_a_run_stores_every_batch_and_trains_the_student_once_a_block() -> None:
    cadence = Cadence(2, 3, warmup_rounds=1, batches=2, warmup_batches=3)
    run = toy.fit(toy.condkd(toy.fast(cadence=cadence)), max_epochs=3)
    assert run.bank.rounds.tolist() == [0] * 36 + [1] * 24 + [2] * 24
    assert len(run.bank.images.flatten(1).unique(dim=0)) == len(run.bank)
    assert run.model.student_steps == (5, 6)  # before the last unit
