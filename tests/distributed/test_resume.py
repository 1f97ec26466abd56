"""Runs that end too early and go on elsewhere, against the run that was left alone."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.distributed import jobs
from tests.distributed.conftest import Launch, Run, largest_difference, same
from tests.distributed.jobs import Recipe
from tests.distributed.test_two_ranks import BATCH, LAYER, TOLERANCE

pytestmark = pytest.mark.ddp
EVERYTHING = ["module", "optimizers", "bank"]
PLAIN = Recipe()  # BatchNorm, float32, one rank
# Units 7, 8, 9 of a round of seven are the second round's synthesis; checkpoints come after every second unit.
KILLS = [("synthesis", 8), ("meta-step", 16), ("distillation", 13), ("checkpoint", 9)]
MID_SYNTHESIS, MID_DISTILLATION = 9, 12
Whole = Callable[..., Run]


def kill(launch: Launch, place: str, unit: int) -> Path:
    """Return the folder of a run that SIGKILL ended in the middle of a unit."""
    folder = launch.folder / f"killed-{launch.count}"
    arguments = {"recipe": PLAIN, "folder": folder, "keep": "last", "interrupt": (place, unit)}
    launch(jobs.fit, dies=signal.SIGKILL, **arguments)
    return folder


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def on_exception(folder: Path) -> Path:
    return folder / "checkpoints" / "on_exception.ckpt"


def step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["global_step"])


@pytest.mark.parametrize(("place", "unit"), KILLS, ids=[place for place, _ in KILLS])
def test_a_killed_run_resumes_to_the_bit(place: str, unit: int, launch: Launch, whole: Whole) -> None:
    killed, elsewhere = kill(launch, place, unit), launch.folder / f"resumed-{launch.count}"
    assert step_of(last(killed)) == unit // 2 * 2
    resumed = launch(jobs.fit, recipe=PLAIN, folder=elsewhere, resume=last(killed), keep="last")[0]
    assert same(resumed, whole(PLAIN, keep="last").ranks[0], EVERYTHING)
    assert resumed["global_step"] == 21
    # The new folder holds the chunks that its checkpoint names, and no others.
    chunks = torch.load(last(elsewhere), weights_only=True)["condkd"]["bank"]["chunks"]
    assert {chunk["name"] for chunk in chunks} == {path.name for path in (elsewhere / "bank").iterdir()}


def test_a_resumed_run_needs_the_old_folder_no_more(launch: Launch, whole: Whole) -> None:
    killed, elsewhere = kill(launch, "synthesis", 8), launch.folder / f"resumed-{launch.count}"
    launch(jobs.fit, recipe=PLAIN, folder=elsewhere, resume=last(killed), keep="last", interrupt=("exception", 11))
    shutil.rmtree(killed)
    folder = launch.folder / f"resumed-{launch.count}"
    resumed = launch(jobs.fit, recipe=PLAIN, folder=folder, resume=on_exception(elsewhere), keep="last")[0]
    assert same(resumed, whole(PLAIN, keep="last").ranks[0], EVERYTHING)


def test_a_killed_run_resumes_in_its_own_folder(launch: Launch, whole: Whole) -> None:
    """The chunk that the lost checkpoint would have named lies there already."""
    killed = kill(launch, "checkpoint", 9)
    assert len(list((killed / "bank").iterdir())) == 2
    resumed = launch(jobs.fit, recipe=PLAIN, folder=killed, resume=last(killed), keep="last")[0]
    assert same(resumed, whole(PLAIN, keep="last").ranks[0], EVERYTHING)


def test_a_moved_folder_resumes_with_its_own_seed(launch: Launch, whole: Whole) -> None:
    killed = kill(launch, "distillation", 13)
    moved = Path(shutil.move(killed, killed.with_name(f"moved-{launch.count}")))
    folder, other = launch.folder / f"resumed-{launch.count}", replace(PLAIN, seed=99)
    resumed = launch(jobs.fit, recipe=other, folder=folder, resume=last(moved), keep="last")[0]
    assert same(resumed, whole(PLAIN, keep="last").ranks[0], EVERYTHING)
    assert resumed["seed"] == PLAIN.seed


@pytest.mark.parametrize("unit", [8, 11], ids=["synthesis", "distillation"])
def test_a_run_that_saves_on_an_exception_resumes_to_the_bit(unit: int, launch: Launch, whole: Whole) -> None:
    folder = launch.folder / f"failed-{launch.count}"
    launch(jobs.fit, recipe=PLAIN, folder=folder, keep="last", interrupt=("exception", unit))
    assert step_of(on_exception(folder)) == unit
    resumed = launch(jobs.fit, recipe=PLAIN, folder=folder, resume=on_exception(folder), keep="last")[0]
    assert same(resumed, whole(PLAIN, keep="last").ranks[0], EVERYTHING)


@pytest.mark.parametrize("step", [MID_SYNTHESIS, MID_DISTILLATION], ids=["synthesis", "distillation"])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (1, 1)])
def test_the_number_of_ranks_may_change(before: int, after: int, step: int, launch: Launch, whole: Whole) -> None:
    run, folder = whole(LAYER, before), launch.folder / f"resumed-{launch.count}"
    assert step_of(run.checkpoint(step)) == step
    arguments = {"recipe": LAYER, "folder": folder, "resume": run.checkpoint(step)}
    for rank in launch(jobs.fit, world_size=after, **arguments):
        for part in ("module", "optimizers"):
            assert largest_difference(rank[part], run.ranks[0][part]) < TOLERANCE
        assert largest_difference(rank["bank"], run.ranks[0]["bank"]) <= 1


@pytest.mark.parametrize("step", [MID_SYNTHESIS, MID_DISTILLATION], ids=["synthesis", "distillation"])
def test_two_ranks_with_batch_norm_resume_to_the_bit(step: int, launch: Launch, whole: Whole) -> None:
    run, folder = whole(BATCH, 2), launch.folder / f"resumed-{launch.count}"
    arguments = {"recipe": BATCH, "folder": folder, "resume": run.checkpoint(step), "keep": "all"}
    for rank in launch(jobs.fit, world_size=2, **arguments):
        assert same(rank, run.ranks[0], EVERYTHING)


def test_runs_in_one_folder_keep_their_banks_apart(launch: Launch, whole: Whole) -> None:
    """``logger=False`` puts them into the same folder; each of them resumes from its own files."""
    folder = launch.folder / f"shared-{launch.count}"
    launch(jobs.fit, recipe=PLAIN, folder=folder, keep="last", interrupt=("exception", 11))
    first = {path: path.read_bytes() for path in (folder / "bank").iterdir()}
    launch(jobs.fit, world_size=2, recipe=BATCH, folder=folder, keep="all")
    run_ids = {torch.load(path, weights_only=True)["condkd"]["bank"]["run_id"] for path in folder.rglob("*.ckpt")}
    assert len(run_ids) == 2
    assert {path: path.read_bytes() for path in (folder / "bank").iterdir()} == first
    assert len([*folder.glob("bank_*")]) == 1
    for recipe, checkpoint, size, keep in (
        (PLAIN, on_exception(folder), 1, "last"),
        (BATCH, folder / "checkpoints" / f"step={MID_SYNTHESIS}.ckpt", 2, "all"),
    ):
        elsewhere = launch.folder / f"resumed-{launch.count}"
        resumed = launch(jobs.fit, world_size=size, recipe=recipe, folder=elsewhere, resume=checkpoint, keep=keep)
        assert same(resumed[0], whole(recipe, size, keep=keep).ranks[0], EVERYTHING)


def test_checkpoints_change_nothing_of_a_run_on_two_ranks(whole: Whole) -> None:
    """Its BatchNorm layers see other images on each rank."""
    never, often = (whole(BATCH, 2, keep=keep) for keep in ("none", "all"))
    assert same(never.ranks[0], often.ranks[0], EVERYTHING)


def test_ranks_that_are_signalled_apart_save_for_slurm_together(launch: Launch, whole: Whole) -> None:
    """At the end of the first step by which any has had the signal, and again at the other's."""
    folder, commands = launch.folder / f"slurm-{launch.count}", launch.folder / f"bin-{launch.count}"
    commands.mkdir()
    (commands / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {commands}/asked\n')
    (commands / "scontrol").chmod(0o755)
    arguments = {"recipe": BATCH, "folder": folder, "steps": (9, 12), "commands": commands}
    launch(jobs.fit_requeued, world_size=2, **arguments)
    assert (commands / "asked").read_text().splitlines() == ["requeue 17"] * 2
    checkpoints = sorted(folder.glob("hpc_ckpt_*.ckpt"))
    assert [step_of(path) for path in checkpoints] == [10, 13]
    for path in checkpoints:
        folder = launch.folder / f"resumed-{launch.count}"
        for rank in launch(jobs.fit, world_size=2, recipe=BATCH, folder=folder, resume=path):
            assert rank["global_step"] == 21
            assert same(rank, whole(BATCH, 2, keep="none").ranks[0], EVERYTHING)
