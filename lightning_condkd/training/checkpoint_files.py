"""Names and search of a run's checkpoint files."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_condkd.messages import listed

BEST = "best_"
RUNS = "version_*/checkpoints/*.ckpt"  # of Lightning's loggers
CHECKPOINTS = "lightning_logs/version_*/checkpoints"


def best_name(metric: str) -> str:
    """Return the name of the file with the best weights.

    Args:
        metric: the validation metric that chose them.

    Example:
        >>> best_name("val/student_accuracy")
        'best_student_accuracy.ckpt'
    """
    return f"{BEST}{metric.rsplit('/', 1)[-1]}.ckpt"


def free_file(folder: str, name: str, own: str | None = None) -> str:
    """Return a path for a checkpoint that no other run in the same folder has used.

    Args:
        folder: the folder, or a remote address, where existing names are not checked.
        name: name of the file; ``-v1`` and so on are added before its ending if it exists.
        own: a file of this run, which may be overwritten.
    """
    stem, ending = os.path.splitext(name)
    paths = (os.path.join(folder, f"{stem}-v{n}{ending}" if n else name) for n in count())
    return next(path for path in paths if path == own or "://" in path or not Path(path).exists())


def is_resumable(path: str | Path) -> bool:
    """Return whether a checkpoint contains more than weights; True also for an unreadable one, so that it is noticed.

    Args:
        path: the file.
    """
    try:
        return "optimizer_states" in torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:  # loading the file later raises an error that explains it
        return True


def newest_first(folder: Path, *patterns: str) -> list[Path]:
    """Return the files of a folder, the newest first.

    Args:
        folder: the folder; it need not exist.
        patterns: patterns of the file names, relative to the folder.
    """
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def checkpoint_of_run(folder: Path) -> Path:
    """Return the checkpoint with the best weights of a run, or its newest if there was no validation.

    Args:
        folder: the folder of the run, or that of its checkpoints.

    Raises:
        FileNotFoundError: if there is none.
    """
    own = folder.parent if folder.name == "checkpoints" and not (folder / "checkpoints").is_dir() else folder
    for pattern in (f"checkpoints/{BEST}*.ckpt", "checkpoints/*.ckpt"):
        if found := newest_first(own, pattern):
            return found[0]
    runs = dict.fromkeys(str(path.parents[1]) for path in newest_first(folder, "*/checkpoints/*.ckpt", f"*/{RUNS}"))
    near = f", but in {listed(list(runs))}" if runs else ""
    raise FileNotFoundError(
        f"expected checkpoints in {own / 'checkpoints'}, found none{near}: name the file of one, or the folder of a run"
    )


def newest_checkpoint(root: Path, resumable: bool) -> Path:
    """Return the newest checkpoint of all runs in a folder, including those for SLURM's requeue.

    A checkpoint of weights alone is returned only if there is no other.

    Args:
        root: ``default_root_dir`` of the runs.
        resumable: whether to ignore checkpoints of weights alone in any case.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = newest_first(root, f"{CHECKPOINTS}/*.ckpt", "hpc_ckpt_*.ckpt")
    whole = next((path for path in found if is_resumable(path)), None)
    if whole is None and (resumable or not found):
        held = f"only weights, such as {found[0]}, which cannot be resumed" if found else "none"
        raise FileNotFoundError(
            f"--ckpt_path last: expected a checkpoint in {root / CHECKPOINTS}, found {held}: name its file"
        )
    return whole or found[0]


def best_checkpoint(root: Path) -> Path:
    """Return the newest file with the best weights of a run; warn if it is not from the newest run of the folder.

    Args:
        root: ``default_root_dir`` of the runs.

    Raises:
        FileNotFoundError: if there is none.
    """
    found, others = newest_first(root, f"{CHECKPOINTS}/{BEST}*.ckpt"), newest_first(root, f"{CHECKPOINTS}/*.ckpt")
    if not found:
        raise FileNotFoundError(
            f"--ckpt_path best: expected a file {BEST}*.ckpt in {root / CHECKPOINTS}, found none: runs without "
            "validation data, or with a ModelCheckpoint that monitors the same metric, do not write it; give last or "
            "the name of a file"
        )
    if found[0].parent != others[0].parent:
        newer = others[0].parents[1]
        rank_zero_warn(f"--ckpt_path best is of {found[0].parents[1]}: the newer run {newer} has none of its own")
    return found[0]
