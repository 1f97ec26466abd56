"""Runs that are killed and resumed: one small case of the driver, and that its checks find what is wrong."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import ROOT

SCRIPTS = ("chaos", "chaos_checks", "chaos_processes")
SMALL = ["--trainer.max_epochs=2", "--model.init_args.epochs=1", "--trainer.limit_val_batches=0"]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The scripts, which import each other by plain names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield SimpleNamespace(**{name: import_module(name) for name in SCRIPTS})
    for name in (*SCRIPTS, "common"):
        sys.modules.pop(name, None)


def test_a_job_that_slurm_requeues_is_the_run_that_was_left_alone(
    driver: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank, hit within its first epochs and started again; every run is a process of its own."""
    line = [f"--config={ROOT / 'configs' / 'digits' / 'experts.yaml'}", *SMALL]
    monkeypatch.setitem(driver.chaos.RECIPES, "experts", line)
    hit = driver.chaos_processes.Hit("SIGUSR1", "save", 1, 0.0, True, 0.0)
    monkeypatch.setattr(driver.chaos, "moments", lambda *_: ["save"])
    monkeypatch.setattr(driver.chaos, "draw_hit", lambda *_: hit)
    alone = driver.chaos.left_alone("experts", 1, ())
    assert alone.steps == (40, 1)
    result = driver.chaos.case("experts", "SIGUSR1", (1, 1), alone, random.Random(0))
    assert result["broken"] == []
    assert result["difference"] == 0
    assert [(one["codes"], one["asked"]) for one in result["attempts"]] == [([143], 1), ([0], 0)]


def test_what_does_not_hold_is_said(driver: SimpleNamespace, tmp_path: Path) -> None:
    outcome, attempt = driver.chaos_checks.Outcome, driver.chaos_processes.Attempt
    alone, other = outcome({"a": torch.zeros(2)}, (10, 2), None), outcome({"a": torch.ones(2)}, (9, 2), None)
    assert driver.chaos.extra("dm", (2, 1, 2)) == [driver.chaos.DOUBLE]
    assert driver.chaos.compared(alone, alone, "dm", True) == []
    assert len(driver.chaos.compared(other, alone, "dm", True)) == 2
    assert len(driver.chaos.compared(other, alone, "dm", False)) == 2
    assert driver.chaos.compared(outcome({}, (10, 2), None), alone, "dm", True) == [
        "other tensors were written, or none"
    ]
    measured, elsewhere = (outcome({"a": torch.zeros(2)}, (10, 2), accuracy) for accuracy in (0.9, 0.91))
    assert driver.chaos.compared(measured, elsewhere, "quickstart", True) == [
        "points 1 to the run left alone, expected at most 0"
    ]
    assert driver.chaos.compared(measured, elsewhere, "quickstart", False) == []
    hit = driver.chaos_processes.draw_hit("SIGUSR1", "step", random.Random(0))
    for asked, found in ((0, 1), (1, 0), (2, 1)):
        assert len(driver.chaos.faults(attempt([143], 1.0, 0, asked, "step 1, all, after save"), hit)) == found
    assert len(driver.chaos.faults(attempt([0], 1.0, 0, 1, "step 1, all, after save"), hit)) == 1
    assert driver.chaos.faults(attempt([0], 1.0, 0, 0, "end 1, all, after end"), hit) == []
    assert len(driver.chaos.faults(attempt([1], 1.0, 1, 0, ""), None)) == 2
    assert not driver.chaos_checks.rows_kept({"a": torch.ones(1)}, {"a": torch.zeros(2)})
    torch.save({"a": torch.zeros(100)}, tmp_path / "whole.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:-50])
    assert [said.split(":")[0] for said in driver.chaos_checks.damaged(tmp_path)] == ["cut.ckpt"]


def test_the_end_comes_last_and_changed_numbers_of_processes_get_somewhere(driver: SimpleNamespace) -> None:
    for recipe in driver.chaos.RECIPES:
        for worlds in driver.chaos.WORLDS.values():
            drawn = [driver.chaos.moments(recipe, worlds, random.Random(seed)) for seed in range(50)]
            assert all(len({*one}) == len(worlds) - 1 and "end" not in one[:-1] for one in drawn)
            assert any("end" in one for one in drawn) == (worlds[1] == 2)
            assert any("start" in one for one in drawn) == (worlds[1] == 2)
