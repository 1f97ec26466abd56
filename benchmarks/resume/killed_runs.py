"""Runs that are killed at random moments and resumed: do they end as the run that was left alone?

Everything is typed as a user types it; for SIGUSR1 the ranks are started and requeued as SLURM does, with a stand-in of
``scontrol``. A case is a recipe, a signal and the numbers of processes of its attempts; the moments come from the seed.
Every attempt has a bound on its time, and no process may outlive it. Cases that the result file has of the same commit
are not run again.

A run that stays on two processes must end equal to the bit. Where the number changes, batches are split otherwise: see
``outcomes.BOUNDS``.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.resume.attempts import JOB, Attempt, Hit, Place, Run, checkpoints, draw_hit
from benchmarks.resume.outcomes import Outcome, apart, compared, damaged, faults, finished, outcome, rows_kept
from benchmarks.support import result_files

LIMIT = 300.0  # seconds of an attempt
SAVE = [
    "--trainer.callbacks+=ModelCheckpoint",
    "--trainer.callbacks.every_n_train_steps=5",
    "--trainer.callbacks.save_top_k=-1",
    "--trainer.callbacks+=benchmarks.resume.phase_marks.PhaseMarks",
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
TRAINED = {
    "quickstart": ["step", "save", "validation"],
    "dm": ["step", "save"],
    "experts": ["step", "save", "validation"],
}
DOUBLE = "--trainer.precision=64-true"


def attempt(
    place: Place, recipe: str, world: int, hit: Hit | None, slurm: int | None = None, added: Sequence[str] = ()
) -> Attempt:
    """Type the command once, from the last checkpoint if there is one, and hit it.

    Args:
        place: of all attempts of the case.
        recipe: name of the recipe.
        world: number of processes.
        hit: the signal; ``None`` lets it finish.
        slurm: restarts of the job so far; ``None`` without SLURM.
        added: further arguments.
    """
    line = [*RECIPES[recipe], *SAVE, f"--trainer.callbacks.path={place.marks}", *ALWAYS, *added]
    line += [f"--trainer.devices={world}", f"--trainer.default_root_dir={place.folder}"]
    if recipe != "quickstart":
        line.append(f"--model.init_args.output={place.folder / ('out' if recipe == 'experts' else 'out.safetensors')}")
    if slurm is None and checkpoints(place.folder):
        line.append("--ckpt_path=last")
    run = Run(line, world, place, slurm, LIMIT)
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
    hits = [*(draw_hit(name, moment, chance) for moment in moments(recipe, worlds, chance)), None]
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder) / "runs", Path(folder))
        place.folder.mkdir()
        attempts: list[Attempt] = []
        final, broken = [], []
        for index, (world, hit) in enumerate(zip(worlds, hits, strict=True)):
            slurm = index if name == "SIGUSR1" else None
            attempts.append(attempt(place, recipe, world, hit, slurm, extra(recipe, worlds)))
            broken += [f"attempt {index}: {what}" for what in (*faults(attempts[-1], hit), *damaged(place.folder))]
            if not any(attempts[-1].codes) or broken:
                break
            if checkpoints(place.folder):
                final.append(finished(place.folder, recipe))
        if set(place.lines(place.asked)) > {f"requeue {JOB}"}:
            broken.append("scontrol was asked for something else")
        found = None if broken else outcome(place.folder, recipe)
        if found is not None:
            same = len({*worlds[: len(attempts)]} | {2}) == 1
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


def moments(recipe: str, worlds: Sequence[int], chance: random.Random) -> list[str]:
    """Return within which phases a case is hit, all of them different; the end comes last, if at all.

    Where the number of processes changes, every attempt but the last has to get somewhere.

    Args:
        recipe: name of the recipe.
        worlds: processes of each attempt.
        chance: seeded.
    """
    trained = TRAINED[recipe]
    if len({*worlds}) > 1:
        return chance.sample(trained, len(worlds) - 1)
    early = ["start", *(["sanity check"] if "validation" in trained else [])]
    first = chance.sample([*early, *trained], len(worlds) - 2)
    return [*first, chance.choice([one for one in (*trained, "end") if one not in first])]


def extra(recipe: str, worlds: Sequence[int]) -> list[str]:
    """Return what a case is typed with beside its recipe.

    Args:
        recipe: name of the recipe.
        worlds: processes of each attempt.
    """
    return [DOUBLE] if len({*worlds}) > 1 and recipe != "quickstart" else []


def left_alone(recipe: str, world: int, added: Sequence[str]) -> Outcome:
    """Return the outcome of the run that is not hit.

    Args:
        recipe: name of the recipe.
        world: number of processes.
        added: further arguments.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder) / "runs", Path(folder))
        place.folder.mkdir()
        if any(attempt(place, recipe, world, None, added=added).codes):
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
    known = result_files.read(options.name, {})
    mark = {"origin": result_files.origin(), "seed": options.seed}
    done, references = (
        {name: one for name, one in known.get(kind, {}).items() if mark.items() <= one.items()}
        for kind in ("cases", "one process, left alone")
    )
    for recipe in options.recipes:
        labels = {f"{recipe}, {n}, {w} processes": (n, w) for n in options.signals for w in options.worlds}
        ahead = {label: what for label, what in labels.items() if label not in done}
        alone: dict[str, Outcome] = {}
        for label, (name, worlds) in ahead.items():
            chance = random.Random(f"{options.seed}, {label}")
            added = extra(recipe, WORLDS[worlds])
            if (key := " ".join(added)) not in alone:
                alone[key] = left_alone(recipe, 2, added)
            if worlds != "two" and recipe not in references:
                references[recipe] = apart(left_alone(recipe, 1, added), alone[key], recipe) | mark
            done[label] = case(recipe, name, WORLDS[worlds], alone[key], chance) | mark
            print(label, json.dumps(done[label]), flush=True)
            content = {"command": sys.argv[1:], "cases": done, "one process, left alone": references}
            result_files.write(options.name, content)
    print(table(done))
    raise SystemExit(1 if any(one["broken"] for one in done.values()) else 0)


if __name__ == "__main__":
    main()
