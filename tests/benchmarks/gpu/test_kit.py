"""The kit for a lent GPU: its dry run is all of it in small, and no item costs more than its time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import children
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import Job, Stage
from tests.conftest import ROOT

STAGES = ("checks", "cost", "rows", "large", "sets")


def dry_run(folder: Path, minutes: int) -> str:
    """Run the kit; on two idle cores a minute holds all of it."""
    limits = ["--device", "cpu", "--minutes", str(minutes), "--results", str(folder)]
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "run.py"), *limits]
    variables = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=60 * minutes + 30, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def items_of(folder: Path) -> dict[str, Any]:
    return {stage: json.loads((folder / f"gpu-{stage}.json").read_text())["items"] for stage in STAGES}


def test_the_dry_run_is_all_of_it_in_small_and_is_not_repeated(tmp_path: Path) -> None:
    said = dry_run(tmp_path, minutes=5)
    found = items_of(tmp_path)
    failures = {name: e["error"] for of in found.values() for name, e in of.items() if e["status"] == "failed"}
    assert not failures, said
    for stage, items in found.items():
        assert any(entry["status"] == "done" for entry in items.values()), f"{stage}: nothing was done\n{said}"
    for name, entry in found["checks"].items():
        assert entry["status"] == "over" or not entry["result"]["problems"], name
    origin = next(iter(found["cost"].values()))["origin"]
    assert {"card", "driver", "commit", "command", "versions"} <= origin.keys()
    assert not any(part.startswith("/") for part in origin["command"])

    done = {name for items in found.values() for name, entry in items.items() if entry["status"] == "done"}
    again = dry_run(tmp_path, minutes=1)
    assert not any(f" s  {name}\n" in again for name in done), again


def stage_of(**behaviors: Any) -> Any:
    def run(item: str, job: Any) -> dict[str, Any]:
        return dict(behaviors[item](job) or {})

    return Stage("toy", lambda small: list(behaviors), run, share=1.0, jobs=2)


def test_items_that_fail_or_hang_or_die_do_not_stop_the_others(tmp_path: Path) -> None:
    def fails(job: Any) -> None:
        raise ValueError("expected this")

    def hangs(job: Any) -> None:
        child = subprocess.Popen(["sleep", "60"])
        (tmp_path / "child").write_text(str(child.pid))
        time.sleep(60)

    stage = stage_of(
        fails=fails,
        hangs=hangs,
        dies=lambda job: os.kill(os.getpid(), 9),
        stops_early=lambda job: {"rounds": 3, "complete": False},
        works=lambda job: {"folder": job.folder.name},
    )
    job = Job("cpu", time.monotonic() + 3, tmp_path, tmp_path)
    ended = list(children.run_items(stage, stage.items(True), job, time.monotonic() + 4, least=0.0))
    of = {one.item: one for one in ended}
    statuses = {item: one.status for item, one in of.items()}
    assert statuses == {
        "fails": "failed",
        "dies": "failed",
        "stops_early": "partial",
        "works": "done",
        "hangs": "over",
    }
    assert "expected this" in of["fails"].content
    assert str(tmp_path) not in of["fails"].content
    assert 'File "/' not in of["fails"].content
    assert of["stops_early"].content == {"rounds": 3}
    status = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    assert not status.exists() or status.read_text().split(")")[1].split()[0] == "Z"


def test_no_item_begins_without_its_time(tmp_path: Path) -> None:
    stage = stage_of(works=lambda job: {})
    job = Job("cpu", time.monotonic() + 1, tmp_path, tmp_path)
    assert not list(children.run_items(stage, ["works"], job, time.monotonic() + 1, least=2.0))


def entry(status: str, rounds: int = 0, seconds: float = 10.0) -> dict[str, Any]:
    what = {"error": "no"} if status in ("failed", "over") else {"result": {"rounds": rounds}}
    return {"status": status, "seconds": seconds, "origin": {"card": "a card"}, **what}


def test_what_is_known_is_not_run_again_and_not_made_worse(tmp_path: Path) -> None:
    seen, names = tmp_path / "seen", ["done", "partial", "failed", "new"]
    before = Results(seen)
    for name in names[:3]:
        before.add("toy", name, entry(name, rounds=5))
    results = Results(tmp_path / "out", seen)
    assert results.missing("toy", names, 100.0) == ["new", "failed"]
    assert results.partial("toy", names, 9.0) == []
    assert results.partial("toy", names, 11.0) == ["partial"]
    assert results.whole_seconds("toy", "a card") == 10.0
    assert results.whole_seconds("toy", "another") == 0.0
    for worse in (entry("failed"), entry("over"), entry("partial", rounds=4)):
        results.add("toy", "partial", worse)
        assert results.items("toy")["partial"]["result"] == {"rounds": 5}
    results.add("toy", "partial", entry("done", rounds=9))
    assert results.items("toy")["partial"]["status"] == "done"
    assert json.loads((seen / "gpu-toy.json").read_text())["items"]["partial"]["status"] == "partial"
