"""Commands and scripts in processes of their own, and the memory of this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MESSAGE_CHARACTERS = 3000


def run_command(arguments: Sequence[str], threads: int = 1) -> float:
    """Run a command of the package; return its CPU-seconds, whatever else runs beside it.

    Args:
        arguments: those of the command line, from the subcommand on.
        threads: of the process.

    Raises:
        RuntimeError: with the end of what it said, if it fails.
    """
    variables = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    line = [sys.executable, "-m", "lightning_condkd", *arguments]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(line, env=variables, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read()[-MESSAGE_CHARACTERS:])
    return usage.ru_utime + usage.ru_stime


def run_script(path: str | Path, arguments: Sequence[str], threads: int = 1, **variables: str) -> Any:  # noqa: ANN401
    """Run a script; return the JSON value on the last line that it prints.

    Args:
        path: the script.
        arguments: of its command line.
        threads: of the process; OpenMP learns their number only at its start.
        variables: further variables of the environment.

    Raises:
        RuntimeError: with the end of what it said, if it fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | variables
    command = [sys.executable, str(path), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-MESSAGE_CHARACTERS:])
    return json.loads(done.stdout.splitlines()[-1])


def resident_megabytes(peak: bool = True) -> float:
    """Return the resident memory of this process in MB.

    Args:
        peak: its peak, or what it is now. It is not ``ru_maxrss``: there a child begins with its parent's.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM" if peak else "VmRSS"].split()[0]) / 1024
