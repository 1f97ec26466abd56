"""One command for a short lease of an accelerator: every stage that has no result yet, in order, within the minutes.

Each item of a stage is written to ``gpu-<stage>.json`` as soon as it ends. What those files hold is not run again, so
the minutes of several machines add up.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()

import argparse  # noqa: E402 - the clock runs first
import importlib  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STAGES = ("checks", "cost", "rows", "large", "sets")
STOP_SECONDS = 1.0  # for ending what still runs and for this process's own end
MARGIN, MOST_MARGIN = 0.05, 10.0  # of a stage's seconds, and in seconds: for its items to stop by themselves


class Lease(NamedTuple):
    """What the stages of one call share."""

    job: Any
    results: Any
    origin: dict[str, Any]
    until: float


def main() -> None:
    """Run what is missing, then what stopped early."""
    options = _options()
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; deterministic runs need it
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        lease = _lease(options, Path(folder))
        stages = [
            importlib.import_module(f"benchmarks.gpu.stage_{name}").STAGE for name in STAGES if name in options.stages
        ]
        _say(f"ready, {lease.origin['card']}, {lease.until - time.monotonic():.0f} s left")
        for choose in (lease.results.missing, lease.results.partial):
            _work_through(stages, choose, lease)
    _say("ended")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="the whole never takes longer")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: all of it in small, a dry run")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--pack", type=Path, default=HERE / "pack", help="what prepare.py made")
    parser.add_argument(
        "--results",
        type=Path,
        help="folder of the result files (default: benchmarks/results; for the dry run a new temporary folder); files "
        "of benchmarks/results are copied into another folder first",
    )
    return parser.parse_args()


def _lease(options: argparse.Namespace, folder: Path) -> Lease:
    from benchmarks.gpu import packed

    if options.pack.exists():
        packed.add_wheels(options.pack, folder / "wheels")
    from benchmarks.gpu import results
    from benchmarks.gpu.stage import Job

    default = Path(tempfile.mkdtemp()) if options.device == "cpu" else ROOT / "benchmarks" / "results"
    seen = None if options.device == "cpu" else ROOT / "benchmarks" / "results"
    held = results.Results(options.results or default, seen)
    if options.device == "cuda":
        packed.unpack(options.pack, folder / "data")
    until = BEGAN + 60 * options.minutes - STOP_SECONDS
    job = Job(options.device, until, folder, folder / "data")
    return Lease(job, held, results.origin(options.device, options.pack), until)


def _work_through(stages: list[Any], choose: Any, lease: Lease) -> None:  # noqa: ANN401 - a method of Results
    """Give every stage with something to do its share of what is left of the lease."""
    left = lease.until - time.monotonic()
    ahead = [stage for stage in stages if choose(stage.name, stage.items(lease.job.small), left)]
    while ahead and (left := lease.until - time.monotonic()) > 0:
        share = ahead[0].share / sum(stage.share for stage in ahead)
        seconds = left if lease.job.small else left * share
        stage = ahead.pop(0)
        _stage(stage, choose(stage.name, stage.items(lease.job.small), seconds), seconds, lease)


def _stage(stage: Any, items: list[str], seconds: float, lease: Lease) -> None:  # noqa: ANN401 - a Stage
    from benchmarks.gpu.children import run_items

    until = time.monotonic() + seconds
    job = lease.job._replace(deadline=until - min(MOST_MARGIN, MARGIN * seconds))
    least = 0.0 if job.small else stage.least
    if stage.alike:
        least = max(least, lease.results.whole_seconds(stage.name, lease.origin["card"]))
    _say(f"stage {stage.name}: {len(items)} items, {seconds:.0f} s")
    ended = []
    for item, status, took, content in run_items(stage, items, job, until, least):
        what = "error" if status in ("failed", "over") else "result"
        entry = {"status": status, "seconds": took, "origin": lease.origin, what: content}
        lease.results.add(stage.name, item, entry)
        ended.append(item)
        _say(f"  {status:8}{took:6.1f} s  {item}" + (f": {_last_line(content)}" if what == "error" else ""))
    if len(ended) < len(items):
        _say(f"  not begun: {', '.join(name for name in items if name not in ended)}")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _say(text: str) -> None:
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
