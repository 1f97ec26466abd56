"""Runs that are killed and resumed: one small case of the driver, and that its checks find what is wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from benchmarks.resume import attempts, killed_runs, outcomes
from tests.conftest import ROOT

SMALL = ["--trainer.max_epochs=2", "--model.init_args.epochs=1", "--trainer.limit_val_batches=0"]


def test_a_job_that_slurm_requeues_is_the_run_that_was_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank, hit within its first epochs and started again; every run is a process of its own."""
    line = [f"--config={ROOT / 'configs' / 'digits' / 'experts.yaml'}", *SMALL]
    monkeypatch.setitem(killed_runs.RECIPES, "experts", line)
    hit = attempts.Hit("SIGUSR1", "save", 1, 0.0, True, 0.0)
    monkeypatch.setattr(killed_runs, "moments", lambda *_: ["save"])
    monkeypatch.setattr(killed_runs, "draw_hit", lambda *_: hit)
    alone = killed_runs.left_alone("experts", 1, ())
    assert alone.steps == (40, 1)
    result = killed_runs.case("experts", "SIGUSR1", (1, 1), alone, random.Random(0))
    assert result["broken"] == []
    assert result["difference"] == 0
    assert [(one["codes"], one["asked"]) for one in result["attempts"]] == [([143], 1), ([0], 0)]


def test_what_does_not_hold_is_said(tmp_path: Path) -> None:
    outcome, attempt = outcomes.Outcome, attempts.Attempt
    alone, other = outcome({"a": torch.zeros(2)}, (10, 2), None), outcome({"a": torch.ones(2)}, (9, 2), None)
    assert killed_runs.extra("dm", (2, 1, 2)) == [killed_runs.DOUBLE]
    assert killed_runs.compared(alone, alone, "dm", True) == []
    assert len(killed_runs.compared(other, alone, "dm", True)) == 2
    assert len(killed_runs.compared(other, alone, "dm", False)) == 2
    assert killed_runs.compared(outcome({}, (10, 2), None), alone, "dm", True) == [
        "other tensors were written, or none"
    ]
    measured, elsewhere = (outcome({"a": torch.zeros(2)}, (10, 2), accuracy) for accuracy in (0.9, 0.91))
    assert killed_runs.compared(measured, elsewhere, "quickstart", True) == [
        "points 1 to the run left alone, expected at most 0"
    ]
    assert killed_runs.compared(measured, elsewhere, "quickstart", False) == []
    hit = attempts.draw_hit("SIGUSR1", "step", random.Random(0))
    for asked, found in ((0, 1), (1, 0), (2, 1)):
        assert len(killed_runs.faults(attempt([143], 1.0, 0, asked, "step 1, all, after save"), hit)) == found
    assert len(killed_runs.faults(attempt([0], 1.0, 0, 1, "step 1, all, after save"), hit)) == 1
    assert killed_runs.faults(attempt([0], 1.0, 0, 0, "end 1, all, after end"), hit) == []
    assert len(killed_runs.faults(attempt([1], 1.0, 1, 0, ""), None)) == 2
    assert not outcomes.rows_kept({"a": torch.ones(1)}, {"a": torch.zeros(2)})
    torch.save({"a": torch.zeros(100)}, tmp_path / "whole.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:-50])
    assert [said.split(":")[0] for said in outcomes.damaged(tmp_path)] == ["cut.ckpt"]


def test_the_end_comes_last_and_changed_numbers_of_processes_get_somewhere() -> None:
    for recipe in killed_runs.RECIPES:
        for worlds in killed_runs.WORLDS.values():
            drawn = [killed_runs.moments(recipe, worlds, random.Random(seed)) for seed in range(50)]
            assert all(len({*one}) == len(worlds) - 1 and "end" not in one[:-1] for one in drawn)
            assert any("end" in one for one in drawn) == (worlds[1] == 2)
            assert any("start" in one for one in drawn) == (worlds[1] == 2)
