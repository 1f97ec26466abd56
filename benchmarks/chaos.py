"""Runs that are killed at random moments and resumed: do they end as the run that was left alone?

Everything is typed as a user types it; for SIGUSR1 the ranks are started and requeued as SLURM does, with a stand-in of
``scontrol``. A case is a recipe, a signal and the numbers of processes of its attempts; the moments come from the seed.
Every attempt has a bound on its time, and no process may outlive it. Cases that the result file has of the same commit
are not run again.

A run that stays on two processes must end equal to the bit. Where the number changes, batches are split otherwise: see
``BOUNDS``.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
from chaos_checks import Outcome, damaged, difference, finished, outcome, rows_kept
from chaos_processes import JOB, Attempt, Hit, Place, Run, checkpoints, draw_hit

LIMIT = 300.0  # seconds of an attempt
SAVE = [
    "--trainer.callbacks+=ModelCheckpoint",
    "--trainer.callbacks.every_n_train_steps=5",
    "--trainer.callbacks.save_top_k=-1",
    "--trainer.callbacks+=chaos_marks.Marks",
]
ALWAYS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
CADENCE = "--model.init_args.inversion.init_args.cadence"
RECIPES = {
    "quickstart": [
        "--config=configs/quickstart.yaml",
        "--trainer.max_epochs=16",
        f"{CADENCE}.distill_steps=20",
        "--trainer.num_sanity_val_steps=2",
        "--trainer.check_val_every_n_epoch=4",
        "--trainer.strategy=ddp_find_unused_parameters_true",
    ],
    "dm": [
        "--config=configs/digits/dm.yaml",
        "--trainer.max_epochs=3",
        "--model.init_args.steps_per_epoch=40",
        "--trainer.strategy=ddp",
    ],
    "experts": [
        "--config=configs/digits/experts.yaml",
        "--trainer.max_epochs=24",
        "--model.init_args.epochs=8",
        "--trainer.num_sanity_val_steps=2",
        "--trainer.check_val_every_n_epoch=6",
        "--trainer.strategy=ddp",
    ],
}
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGKILL")
WORLDS = {"two": (2, 2, 2, 2), "two, one, two": (2, 1, 2)}
MOMENTS = ("start", "step", "save", "end")
# Where the number of processes changes, the largest difference to the run on two that passes. Sums are taken in another
# order there, and rounding grows, in experts where it decides at ReLU, pooling and crops. BatchNorm of the quickstart
# sees other batches: of it the accuracy is compared, in points, with twice its deviation over seeds as bound. The
# result file has what a run on one process differs by that was left alone.
BOUNDS = {"quickstart": 5.2, "dm": 1e-4, "experts": 1e-2}


def attempt(
    place: Place, recipe: str, world: int, hit: Hit | None, slurm: int | None = None, limit: float = LIMIT
) -> Attempt:
    """Type the command once, from the last checkpoint if there is one, and hit it.

    Args:
        place: of all attempts of the case.
        recipe: name of the recipe.
        world: number of processes.
        hit: the signal; ``None`` lets it finish.
        slurm: restarts of the job so far; ``None`` without SLURM.
        limit: seconds.
    """
    line = [*RECIPES[recipe], *SAVE, f"--trainer.callbacks.path={place.marks}", *ALWAYS]
    line += [f"--trainer.devices={world}", f"--trainer.default_root_dir={place.folder}"]
    if recipe != "quickstart":
        line.append(f"--model.init_args.output={place.folder / ('out' if recipe == 'experts' else 'out.safetensors')}")
    if slurm is None and checkpoints(place.folder):
        line.append("--ckpt_path=last")
    run = Run(line, world, place, slurm, limit)
    return run.end("" if hit is None else run.hit(hit))


def case(recipe: str, name: str, worlds: Sequence[int], alone: Outcome, chance: random.Random) -> dict[str, Any]:
    """Kill a run as often as it has attempts but one, and let the last one finish.

    Args:
        recipe: name of the recipe.
        name: of the signal.
        worlds: processes of each attempt.
        alone: outcome of the run that was left alone.
        chance: seeded, for the moments.
    """
    moments = MOMENTS if recipe == "dm" else (*MOMENTS, "sanity check", "validation")
    hits = [*(draw_hit(name, moments, chance) for _ in worlds[1:]), None]
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder) / "runs", Path(folder))
        place.folder.mkdir()
        attempts: list[Attempt] = []
        final, broken = [], []
        for index, (world, hit) in enumerate(zip(worlds, hits, strict=True)):
            attempts.append(attempt(place, recipe, world, hit, index if name == "SIGUSR1" else None))
            broken += [f"attempt {index}: {what}" for what in (*faults(attempts[-1], hit), *damaged(place.folder))]
            if not any(attempts[-1].codes) or broken:
                break
            if checkpoints(place.folder):
                final.append(finished(place.folder, recipe))
        if set(place.lines(place.asked)) > {f"requeue {JOB}"}:
            broken.append("scontrol was asked for something else")
        found = None if broken else outcome(place.folder, recipe)
        if found is not None:
            same = len({*worlds[: len(attempts)]}) == 1
            broken += compared(found, alone, recipe, same)
            if not all(rows_kept(before, found.tensors) for before in final):
                broken.append("what was final has changed")
        if broken:
            print(place.log.read_text()[-6000:])
    return {
        "attempts": [one._asdict() for one in attempts],
        "processes": list(worlds[: len(attempts)]),
        **({} if found is None else apart(found, alone, recipe)),
        "broken": broken,
    }


def faults(one: Attempt, hit: Hit | None) -> list[str]:
    """Return what must not be, whatever becomes of the run.

    Args:
        one: the attempt.
        hit: what it was to be hit by.
    """
    broken = [f"{one.left} processes were left"] if one.left else []
    if hit is None and any(one.codes):
        broken.append(f"it was left alone and ended with {one.codes}")
    ended = one.hit.endswith("end")
    if one.hit and not ended and not any(one.codes):
        broken.append("it was hit and ended as if it were finished")
    if hit is not None and hit.name == "SIGUSR1":
        trained = one.hit and not ended and not one.hit.endswith("nothing")
        if one.asked > 1 or (trained and one.asked != 1):
            broken.append(f"a requeue was asked for {one.asked} times")
    elif one.asked:
        broken.append("a requeue was asked for")
    return broken


def compared(found: Outcome, alone: Outcome, recipe: str, same: bool) -> list[str]:
    """Return what should be as in the run that was left alone, and is not.

    Args:
        found: the outcome of a case.
        alone: of the run that was left alone.
        recipe: name of the recipe.
        same: whether all attempts had as many processes.
    """
    broken = [] if found.steps == alone.steps else [f"steps and epochs {found.steps}, alone {alone.steps}"]
    figures = apart(found, alone, recipe)
    if figures["difference"] is None:
        return [*broken, "other tensors were written, or none"]
    what, bound = ("difference", 0) if same else ("points" if recipe == "quickstart" else "difference", BOUNDS[recipe])
    if (figure := figures[what] or 0.0) > bound:
        broken.append(f"{what} {figure:g} to the run left alone, expected at most {bound:g}")
    return broken


def apart(found: Outcome, alone: Outcome, recipe: str) -> dict[str, float | None]:
    """Return how far an outcome is from that of the run that was left alone; ``None`` if tensors are missing.

    Args:
        found: the outcome.
        alone: of the run that was left alone.
        recipe: name of the recipe.
    """
    largest = difference(found.tensors, alone.tensors)
    figures: dict[str, float | None] = {"difference": None if largest == float("inf") else largest}
    if recipe == "quickstart":
        figures["points"] = round(100 * abs((found.accuracy or 0) - (alone.accuracy or 0)), 2)
    return figures


def left_alone(recipe: str, world: int) -> Outcome:
    """Return the outcome of the run that is not hit.

    Args:
        recipe: name of the recipe.
        world: number of processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder) / "runs", Path(folder))
        place.folder.mkdir()
        if any(attempt(place, recipe, world, None).codes):
            raise SystemExit(place.log.read_text()[-3000:])
        return outcome(place.folder, recipe)


def table(cases: dict[str, Any]) -> str:
    """Return the cases as a table in markdown.

    Args:
        cases: label to result.
    """
    lines = ["| case | hit within | exit codes | seconds | difference | holds |", "|---|---|---|---|---|---|"]
    for label, one in cases.items():
        hits = ", ".join(a["hit"].split(",")[0] or "-" for a in one["attempts"][:-1])
        codes = ", ".join(" and ".join(map(str, a["codes"])) for a in one["attempts"])
        seconds = ", ".join(f"{a['seconds']:.0f}" for a in one["attempts"])
        changed = len({*one["processes"]}) > 1 and "points" in one
        figure = "-" if one.get("difference") is None else f"{one['difference']:.1g}"
        figure = f"{one['points']} points" if changed else figure
        lines.append(f"| {label} | {hits} | {codes} | {seconds} | {figure} | {'no' if one['broken'] else 'yes'} |")
    return "\n".join(lines)


def main() -> None:
    """Run the cases and write the result file after each.

    Raises:
        SystemExit: with 1, if a case does not hold.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=list(SIGNALS))
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="chaos", help="of the result file")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and all they start
    path, origin = common.RESULTS / f"{options.name}.json", common.origin()
    known = json.loads(path.read_text()) if path.exists() else {}
    mark = {"origin": origin, "seed": options.seed}
    done, references = (
        {name: one for name, one in known.get(kind, {}).items() if mark.items() <= one.items()}
        for kind in ("cases", "one process, left alone")
    )
    for recipe in options.recipes:
        labels = {f"{recipe}, {n}, {w} processes": (n, w) for n in options.signals for w in options.worlds}
        ahead = {label: what for label, what in labels.items() if label not in done}
        if not ahead:
            continue
        alone = left_alone(recipe, 2)
        references[recipe] = references.get(recipe) or apart(left_alone(recipe, 1), alone, recipe) | mark
        for label, (name, worlds) in ahead.items():
            chance = random.Random(f"{options.seed}, {label}")
            done[label] = case(recipe, name, WORLDS[worlds], alone, chance) | mark
            print(label, json.dumps(done[label]), flush=True)
            content = {"command": sys.argv[1:], "cases": done, "one process, left alone": references}
            common.write(options.name, content)
    print(table(done))
    raise SystemExit(1 if any(one["broken"] for one in done.values()) else 0)


if __name__ == "__main__":
    main()
