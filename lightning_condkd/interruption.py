"""End of a command by Ctrl-C or SIGTERM: one line that says how to go on, and the usual return code."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_condkd.messages import duration
from lightning_condkd.progress import is_shown
from lightning_condkd.training.checkpoint_files import is_resumable, newest_checkpoint, newest_first
from lightning_condkd.training.trainer_access import checkpoint_folder

AGAIN = "nothing was written: type the command again"
RECEIVED: set[signal.Signals] = set()
NAMES = {signal.SIGINT: "Ctrl-C (SIGINT)", signal.SIGTERM: "SIGTERM"}


class Terminated(KeyboardInterrupt):
    """SIGTERM outside of the training, where it has the effect of Ctrl-C."""


def end_by_sigterm(fitting: bool) -> None:
    """Make SIGTERM raise :class:`Terminated` in this process.

    Args:
        fitting: whether the command is ``fit``, of which Lightning ends the training itself, between two steps.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if not fitting or signal.getsignal(signal.SIGTERM) is handle:  # else Lightning's handler has called this one
            raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handle)


def signal_of(end: BaseException) -> signal.Signals | None:
    """Return the signal behind an exception; ``None`` if there is none.

    Args:
        end: the exception that ends a command, or what Lightning raises in its place.
    """
    own = isinstance(end, SystemExit) and not isinstance(end, SIGTERMException)  # a SystemExit too
    cause = end.__context__ if own else end
    cut_off = isinstance(end, RuntimeError) and signal.SIGTERM in RECEIVED  # another rank has ended before this one
    if cut_off or isinstance(cause, (Terminated, SIGTERMException)):
        return signal.SIGTERM
    return signal.SIGINT if isinstance(cause, KeyboardInterrupt) else None


def end_of(number: signal.Signals, advice: str) -> SystemExit:
    """Print how a command ended and how to go on, on rank 0, and return the exception that ends the process.

    Args:
        number: the signal.
        advice: how to go on.
    """
    if is_shown():
        bar = "\n" if sys.stderr.isatty() else ""
        print(f"{bar}ended by {NAMES[number]} before it was finished: {advice}", file=sys.stderr, flush=True)
    return SystemExit(128 + number)


def how_to_resume(trainer: L.Trainer, given: str | None) -> str:
    """Return how to go on with an interrupted fit.

    Args:
        trainer: the trainer.
        given: the checkpoint from which it was resumed, if any.
    """
    folder = checkpoint_folder(trainer.checkpoint_callback)
    if folder is None:
        return "this run keeps no checkpoints: type the command again"
    own = next((path for path in newest_first(Path(folder), "*.ckpt") if is_resumable(path)), None)
    if own is None:
        again = f"resume with --ckpt_path {given}" if given else "type the command again"
        return f"it was before its first checkpoint (after a round or epoch, or 10 minutes): {again}"
    return f"resume with --ckpt_path {_name(own, trainer)}, saved {_position(own)}"


def _name(own: Path, trainer: L.Trainer) -> str:
    shown = own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own
    try:
        newest = newest_checkpoint(Path(trainer.default_root_dir), resumable=True)
    except FileNotFoundError:
        return str(shown)
    return f"last ({shown})" if newest.resolve() == own.resolve() else str(shown)


def _position(path: Path) -> str:
    age = f"{duration(time.time() - path.stat().st_mtime)} ago"
    content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return f"{age} at step {content['global_step']}"
