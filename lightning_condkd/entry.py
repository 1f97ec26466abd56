"""A command in a process of its own: readable errors, an end by signals, and no idle warnings."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_condkd.cli import COMMANDS, main
from lightning_condkd.interruption import AGAIN, RECEIVED, end_by_sigterm, end_of, signal_of
from lightning_condkd.parser import TRACEBACK

TERMINATION_SECONDS = 30.0  # the usual time of clusters between SIGTERM and SIGKILL
STAGES = ("fit", "validate", "test", "predict")
# Lightning gives these warnings in every run of this package; a user cannot do anything about them.
IDLE_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\)",
    r".*Your `IterableDataset` has `__len__` defined",
    r".*Using ModelCheckpoint with manual optimization and every_n_train_steps",
    r".*You passed in a `val_dataloader` but have no `validation_step`",
    r".*Found \d+ module\(s\) in eval mode at the start of training",
)


def run_command(given: list[str]) -> None:
    """Run a command in this process.

    Errors of this package and of the checks of Lightning's trainer are printed in one line. Other errors, and all
    errors if the environment variable ``LIGHTNING_CONDKD_TRACEBACK`` is set, keep their traceback.

    Args:
        given: the command and its arguments, which are also those of the process.

    Raises:
        SystemExit: with the return code, if it is not 0.
    """
    for message in IDLE_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_counts)
    _check_command(given)
    find_own_modules()
    bound_termination()
    end_by_sigterm(fitting=given[0] == "fit")
    try:
        main()
    except KeyboardInterrupt as end:
        raise end_of(signal_of(end) or signal.SIGINT, str(end) or AGAIN) from None
    except (ValueError, TypeError, OSError, ModuleNotFoundError, MisconfigurationException) as error:
        refusal = _refusal(error)
        if os.environ.get(TRACEBACK) or refusal is None:
            raise
        print(f"error: {refusal}\n(set {TRACEBACK}=1 for the traceback)", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        _leave_group()


def _counts(record: logging.LogRecord) -> bool:
    """Return whether a message of Lightning is neither an advertisement nor said in our words at the end."""
    return not any(text in str(record.msg) for text in ("Tip: ", "Detected KeyboardInterrupt"))


def _leave_group() -> None:
    """Leave gloo's group, which Lightning does not: its threads would abort some processes (code -6) at their exit."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


def find_own_modules() -> None:
    """Let a configuration name classes of modules in the working folder, also for the installed script.

    The folder comes last, so that none of its files takes the place of an installed module.
    """
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def bound_termination() -> None:
    """Make this process end at most :data:`TERMINATION_SECONDS` after a SIGTERM, even while it waits for another rank.

    Lightning ends a run after the current step, and its ranks communicate in the signal handler. A rank that waits for
    one that has ended, or that is in another communication, would never get there.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # written to at once, also while a handler cannot run
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def _watch(reading: int) -> None:
    while received := os.read(reading, 1):
        if received[0] == signal.SIGTERM:
            RECEIVED.add(signal.SIGTERM)  # Lightning's handler may fail before ours is called
            time.sleep(TERMINATION_SECONDS)
            print(f"still running {TERMINATION_SECONDS:.0f} s after SIGTERM: ended now", file=sys.stderr, flush=True)
            os._exit(128 + signal.SIGTERM)


def _check_command(given: list[str]) -> None:
    known = (*STAGES, *COMMANDS)
    if not given or (not given[0].startswith("-") and given[0] not in known):
        got = repr(given[0]) if given else "nothing"
        raise SystemExit(f"error: expected one of {', '.join(known)}, got {got}: see --help")


def _refusal(error: BaseException | None) -> BaseException | None:
    """Return the error of this package, of Lightning's checks or of a file, without the parser's additions to it."""
    while error is not None:
        if isinstance(error, MisconfigurationException) or (isinstance(error, OSError) and error.filename is not None):
            return error
        frames = traceback.extract_tb(error.__traceback__)
        if frames and Path(frames[-1].filename).is_relative_to(Path(__file__).parent):
            return error
        error = error.__cause__ or error.__context__
    return None
