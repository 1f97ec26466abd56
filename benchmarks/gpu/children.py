"""Items in processes of their own, a few side by side, none of which outlives its stage."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.stage import Job, Stage

POLL_SECONDS = 0.05
ERROR_CHARACTERS = 3000


class Ended(NamedTuple):
    """What became of an item.

    Args:
        item: its name.
        status: ``done``, ``partial``, ``failed`` or ``over``.
        seconds: how long it ran.
        content: its result, or the error.
    """

    item: str
    status: str
    seconds: float
    content: Any


class _Child(NamedTuple):
    item: str
    process: int
    began: float
    folder: Path


def run_items(stage: Stage, items: list[str], job: Job, until: float, least: float) -> Iterator[Ended]:
    """Run items in forked processes and yield each as it ends.

    Args:
        stage: whose items they are.
        items: their names, in order.
        job: what all are told; each gets a folder of its own below that of the job.
        until: reading of ``time.monotonic()`` at which those that still run are killed.
        least: seconds that must be left for an item to begin.
    """
    waiting, running = list(items), list[_Child]()
    while waiting or running:
        while waiting and len(running) < stage.jobs and until - time.monotonic() > least:
            running.append(_start(stage, waiting.pop(0), job))
        if not running:
            return
        time.sleep(POLL_SECONDS)
        for child in list(running):
            if (ended := _look(child, until)) is not None:
                running.remove(child)
                yield ended


def _start(stage: Stage, item: str, job: Job) -> _Child:
    (job.folder / stage.name).mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=re.sub(r"\W+", "-", item), dir=job.folder / stage.name))
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        _work(stage, item, job._replace(folder=folder))
    return _Child(item, process, time.monotonic(), folder)


def _work(stage: Stage, item: str, job: Job) -> None:
    """Do an item in the child, which never comes back."""
    os.setsid()
    sys.stdout = sys.stderr = log = (job.folder / "log.txt").open("w", buffering=1)
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    code = 1
    try:
        _limit_threads(stage.jobs)
        content = json.dumps(stage.run(item, job))
        (job.folder / "result.json").write_text(content)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        log.flush()
        os._exit(code)


def _limit_threads(jobs: int) -> None:
    import torch  # not at the top: nothing may compute before the fork

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def _look(child: _Child, until: float) -> Ended | None:
    now = time.monotonic()
    process, status = os.waitpid(child.process, os.WNOHANG)
    if process == 0 and now < until:
        return None
    seconds = round(now - child.began, 1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process, signal.SIGKILL)  # what the item itself has started ends with it
    if process == 0:
        os.waitpid(child.process, 0)
        return Ended(child.item, "over", seconds, f"killed after {seconds} s; it said: {_said(child)}")
    if os.waitstatus_to_exitcode(status) != 0:
        return Ended(child.item, "failed", seconds, _said(child))
    result = json.loads((child.folder / "result.json").read_text())
    return Ended(child.item, "done" if result.pop("complete", True) else "partial", seconds, result)


def _said(child: _Child) -> str:
    log = child.folder / "log.txt"
    text = log.read_text(errors="replace") if log.exists() else ""
    return without_folders(text[-ERROR_CHARACTERS:])


def without_folders(text: str) -> str:
    """Leave out the folders of a machine, which mean nothing elsewhere.

    Args:
        text: what an item said.
    """
    return re.sub(r"/(?:[\w.+-]+/)+", "", text)
