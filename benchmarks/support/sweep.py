"""Rows times seeds into one result file; what the file already holds is not run again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from benchmarks.support import result_files
from benchmarks.support.spread import mean_and_deviation

Run = Callable[[list[str], int], dict[str, Any]]


def sweep(
    name: str, base: list[str], table: Mapping[str, list[str]], seeds: Sequence[int], jobs: int, run: Run
) -> None:
    """Run every row with every seed and add each summary to the result file as it comes.

    Args:
        name: of the result file.
        base: flags of all rows.
        table: flags of each row.
        seeds: of the runs.
        jobs: runs side by side, with one thread each if more than one; a single one has ``OMP_NUM_THREADS``, or a
            thread for each core.
        run: takes flags and threads, returns a summary with ``seed`` and the student's accuracies.
    """
    tasks = [(row, seed) for seed in seeds for row in table if not _done(name, base, row, table[row], seed)]
    threads = 1 if jobs > 1 else int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    writing = Lock()

    def job(task: tuple[str, int]) -> None:
        row, seed = task
        summary = run([*base, *table[row], f"--seed_everything={seed}"], threads)
        print(f"{row:32} seed {seed}: last {summary['student_accuracy_last']:.4f}", flush=True)
        with writing:
            _add(name, base, row, table[row], summary)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(job, tasks))


def _load(name: str, base: list[str]) -> dict[str, Any]:
    content = result_files.read(name, {"base": base, "rows": {}})
    if content["base"] != base:
        raise SystemExit(f"{name}.json holds runs of {content['base']}, not of {base}: give it another --name")
    return {"base": base, "rows": content["rows"]}


def _done(name: str, base: list[str], row: str, flags: list[str], seed: int) -> bool:
    found = _load(name, base)["rows"].get(row, {"flags": flags, "runs": {}})
    if found["flags"] != flags:
        raise SystemExit(f"the row {row!r} of {name}.json has flags {found['flags']}, not {flags}: give another --name")
    return str(seed) in found["runs"]


def _add(name: str, base: list[str], row: str, flags: list[str], summary: dict[str, Any]) -> None:
    content = _load(name, base)
    entry = content["rows"].setdefault(row, {"flags": flags, "runs": {}})
    entry["runs"][str(summary["seed"])] = summary
    runs = entry["runs"].values()
    for what in ("last", "best"):
        entry[what] = mean_and_deviation([one[f"student_accuracy_{what}"] for one in runs])
    if all("embeddings" in one for one in runs):
        names = next(iter(runs))["embeddings"]
        entry["embeddings"] = {n: mean_and_deviation([one["embeddings"][n] for one in runs], 1, 4) for n in names}
    if all("figures" in one for one in runs):
        names = next(iter(runs))["figures"]
        entry["figures"] = {n: mean_and_deviation([one["figures"][n] for one in runs]) for n in names}
    result_files.write(name, content)
