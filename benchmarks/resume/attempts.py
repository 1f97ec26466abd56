"""One start of the command: as a user types it, or as SLURM starts it, and the signal that hits it."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

JOB = "4711"
PERIOD = 0.002  # seconds between two looks at a run that is to be hit
KILL_WAIT = 35.0  # SLURM waits 30 s between SIGTERM and SIGKILL; our own bound is as long
ROOT = Path(__file__).resolve().parents[2]


class Hit(NamedTuple):
    """A signal and when it comes.

    Args:
        name: of the signal.
        moment: phase within which it comes: ``start``, ``step`` or a mark of :class:`phase_marks.PhaseMarks`.
        turn: which time the run comes to that phase.
        delay: seconds after that.
        all: whether all processes get it, or one of them.
        chosen: which one, in [0, 1).
    """

    name: str
    moment: str
    turn: int
    delay: float
    all: bool
    chosen: float


class Attempt(NamedTuple):
    """What became of one start of the command.

    Args:
        codes: return codes of the processes that were started: one, or under SLURM one a rank.
        seconds: until the last process was gone.
        left: processes that had to be killed in the end.
        asked: requeues that SLURM was asked for.
        hit: the signal, and where the run was; empty if it ended before.
    """

    codes: list[int]
    seconds: float
    left: int
    asked: int
    hit: str


class Place(NamedTuple):
    """Where a case writes.

    Args:
        folder: ``default_root_dir`` and outputs of its runs.
        aside: what the driver needs beside them.
    """

    folder: Path
    aside: Path

    @property
    def marks(self) -> Path:
        return self.aside / "marks.txt"

    @property
    def asked(self) -> Path:
        return self.aside / "asked.txt"

    @property
    def log(self) -> Path:
        return self.aside / "log.txt"

    def lines(self, path: Path) -> list[str]:
        return path.read_text().splitlines() if path.exists() else []


class Run:
    """The processes of one attempt.

    Args:
        line: the command's arguments.
        world: number of processes.
        place: where it writes.
        slurm: number of restarts of the job; ``None`` without SLURM.
        limit: seconds that it may take.
    """

    def __init__(self, line: Sequence[str], world: int, place: Place, slurm: int | None, limit: float) -> None:
        self.place, self.slurm, self.limit = place, slurm, limit
        self.began, self.known = time.monotonic(), checkpoints(place.folder)
        place.marks.unlink(missing_ok=True)
        self.asked = len(place.lines(place.asked))
        environments = [{}] if slurm is None else [_slurm(rank, world, slurm, place) for rank in range(world)]
        if slurm is not None:
            port = str(_free_port())
            environments = [one | {"MASTER_PORT": port} for one in environments]
        self.processes = [self._start(line, one) for one in environments]

    def _start(self, line: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": path}
        command = [sys.executable, "-m", "lightning_condkd", "fit", *line]
        with self.place.log.open("a") as log:
            variables = os.environ | quiet | environment
            return subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True, cwd=ROOT)

    @property
    def ended(self) -> bool:
        return all(one.poll() is not None for one in self.processes)

    def hit(self, hit: Hit) -> str:
        """Send the signal when its moment has come.

        Args:
            hit: the signal.

        Returns:
            What was hit, or nothing if the run ended before.
        """
        while not self._reached(hit):
            if self.ended or time.monotonic() - self.began > self.limit:
                return ""
            time.sleep(PERIOD)
        time.sleep(hit.delay)
        found = self.living()
        if not found:
            return ""
        targets = found if hit.all else [found[int(hit.chosen * len(found))]]
        marks = self.place.lines(self.place.marks)
        for one in targets:
            with suppress(ProcessLookupError):
                os.kill(one, signal.Signals[hit.name])
        which = "all" if hit.all else f"process {found.index(targets[0])}"
        return f"{hit.moment} {hit.turn}, {which}, after {marks[-1] if marks else 'nothing'}"

    def _reached(self, hit: Hit) -> bool:
        if hit.moment == "start":
            return True
        if hit.moment == "step":
            return checkpoints(self.place.folder) != self.known
        return self.place.lines(self.place.marks).count(hit.moment) >= hit.turn

    def end(self, hit: str) -> Attempt:
        """Wait for the end; SLURM ends the job that is to be requeued, and the ranks whose fellow died.

        Args:
            hit: what was hit.
        """
        while not self.ended and time.monotonic() - self.began < self.limit:
            if self.slurm is not None and (self._asked() or any(one.poll() for one in self.processes)):
                break
            time.sleep(0.05)
        if self.slurm is not None:
            for one in self.living():
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGTERM)
        deadline = time.monotonic() + KILL_WAIT
        while (left := self.living()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for one in left:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        codes = [one.wait() for one in self.processes]
        return Attempt(codes, round(time.monotonic() - self.began, 1), len(left), self._asked(), hit)

    def _asked(self) -> int:
        return len(self.place.lines(self.place.asked)) - self.asked

    def living(self) -> list[int]:
        """Return the living processes of all sessions, oldest first."""
        return sorted(pid for one in self.processes for pid in _session(one.pid))


def _session(leader: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                yield int(stat.parent.name)


def checkpoints(folder: Path) -> set[Path]:
    """Return the checkpoints under their final names.

    Args:
        folder: of a case.
    """
    found = {*folder.glob("lightning_logs/version_*/checkpoints/*.ckpt"), *folder.glob("hpc_ckpt_*.ckpt")}
    return {path for path in found if not path.name.startswith("best_")}  # those cannot be resumed


def _slurm(rank: int, world: int, restarts: int, place: Place) -> dict[str, str]:
    """Return what srun tells a rank, and a path with a stand-in of scontrol that notes what it was asked."""
    command = place.aside / "bin" / "scontrol"
    if not command.exists():
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\necho "$@" >> {place.asked}\n')
        command.chmod(0o755)
    numbers = {"NTASKS": world, "NTASKS_PER_NODE": world, "NNODES": 1, "NODEID": 0, "PROCID": rank, "LOCALID": rank}
    job = {"JOB_ID": JOB, "JOB_NAME": "chaos", "NODELIST": "127.0.0.1", "RESTART_COUNT": str(restarts)}
    variables = {f"SLURM_{name}": str(value) for name, value in (numbers | job).items()}
    return variables | {"MASTER_ADDR": "127.0.0.1", "PATH": f"{command.parent}:{os.environ['PATH']}"}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def draw_hit(name: str, moment: str, chance: random.Random) -> Hit:
    """Draw the rest of a hit.

    Args:
        name: of the signal.
        moment: the phase.
        chance: seeded.
    """
    longest = {"start": 7.0, "step": 2.0, "save": 0.05, "end": 0.3}.get(moment, 0.2)
    turn = chance.randint(1, {"save": 12, "validation": 2}.get(moment, 1))
    return Hit(name, moment, turn, chance.uniform(0, longest), chance.random() < 0.5, chance.random())
