"""A process that has imported everything and forks a child for every rank of a job: an import takes longer than a run.

One line of JSON comes in for each job, one goes out with the exit codes. A child writes what the job's function returns
to ``rank<r>.pt`` in the job's folder, and all that it prints to ``rank<r>.log``.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

GRACE = 3.0  # seconds that the other ranks get once one has failed


def main() -> None:
    """Serve jobs until the input ends."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)


def serve(job: dict[str, Any]) -> list[int]:
    """Fork the ranks of a job, wait for them and return their exit codes, negative for a signal."""
    Path(job["folder"]).mkdir(parents=True)
    running = {_fork(job, rank): rank for rank in range(job["world_size"])}
    codes = [0] * len(running)
    deadline = time.monotonic() + job["timeout"]
    while running:
        for pid in list(running):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                codes[running.pop(pid)] = code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                deadline = min(deadline, time.monotonic() + GRACE) if code else deadline
        if running and time.monotonic() > deadline:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return codes


def _fork(job: dict[str, Any], rank: int) -> int:
    return os.fork() or _child(job, rank)


def _child(job: dict[str, Any], rank: int) -> NoReturn:
    code = 1
    try:
        log = os.open(Path(job["folder"], f"rank{rank}.log"), os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        with _group(job, rank):
            module, _, name = job["function"].partition(":")
            result = getattr(importlib.import_module(module), name)(**job["arguments"])
            torch.save(result, Path(job["folder"], f"rank{rank}.pt"))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def _group(job: dict[str, Any], rank: int) -> Iterator[None]:
    """Join the ranks before Lightning would, through a file: no port can be taken."""
    if job["world_size"] == 1:
        yield
        return
    os.environ["LOCAL_RANK"] = str(rank)  # tells Lightning that its processes are there already
    store = dist.FileStore(str(Path(job["folder"], "store")), job["world_size"])
    patience = timedelta(seconds=job["timeout"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job["world_size"], timeout=patience)
    yield
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
