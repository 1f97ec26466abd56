"""What a run that was killed and resumed left behind, against the run that was left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.resume.attempts import Attempt, Hit, checkpoints
from lightning_condkd.condensation.expert_files import read_snapshot_header
from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.data.chunks import CHUNK_KIND
from lightning_condkd.files import unpack

# Where the number of processes changes, the largest difference to the run on two that passes. Sums are taken in
# another order there. A pre-activation that lies within rounding of 0 then turns a ReLU over, and from there on pixels
# of DM differ by 5e-2 in single precision, weights of experts by 3e-3. So these cases run in double, where rounding is
# too small for that, and all but the rounding of what is written must be equal. BatchNorm of the quickstart sees other
# batches: of it the accuracy is compared, in points, with twice its deviation over seeds as bound. The result file has
# what a run on one process that was left alone differs by.
BOUNDS = {"quickstart": 5.2, "dm": 1e-6, "experts": 1e-6}


class Outcome(NamedTuple):
    """What a case ended with.

    Args:
        tensors: the student and the bank, or all that was written.
        steps: optimizer steps and finished epochs of the last checkpoint.
        accuracy: of the student, where there is one.
    """

    tensors: dict[str, Tensor]
    steps: tuple[int, int]
    accuracy: float | None


def outcome(folder: Path, recipe: str) -> Outcome:
    """Return what a case ended with.

    Args:
        folder: of the case.
        recipe: its recipe.
    """
    state = _read(newest(folder))
    steps = int(state["global_step"]), _epochs(state)
    if recipe != "quickstart":
        files = sorted(folder.glob("out*")) if recipe == "dm" else sorted((folder / "out").rglob("*.safetensors"))
        return Outcome({name: value for file in files for name, value in _tensors(file).items()}, steps, None)
    student = {name: value for name, value in state["state_dict"].items() if name.startswith("student.")}
    summaries = sorted(folder.glob("lightning_logs/version_*/summary.json"), key=lambda path: path.stat().st_mtime)
    if not summaries:
        return Outcome({}, steps, None)
    found = json.loads(summaries[-1].read_text())
    return Outcome({**student, **bank(newest(folder))}, steps, found["student_accuracy_last"])


def newest(folder: Path) -> Path:
    """Return the checkpoint of the most steps.

    Args:
        folder: of a case.
    """
    return max(checkpoints(folder), key=lambda path: (_read(path)["global_step"], path.stat().st_mtime))


def taken(folder: Path) -> Path:
    """Return the checkpoint that the next attempt goes on from: SLURM's latest, though the run went on until it ended.

    Args:
        folder: of a case.
    """
    requeued = list(folder.glob("hpc_ckpt_*.ckpt"))
    return max(requeued, key=lambda path: int(path.stem.rsplit("_", 1)[-1])) if requeued else newest(folder)


def bank(path: Path) -> dict[str, Tensor]:
    """Return the bank that a checkpoint names, nothing where there is none.

    Args:
        path: the checkpoint.
    """
    state = (_read(path).get("condkd") or {}).get("bank")
    if state is None:
        return {}
    found = MemoryBank()
    found.load_state_dict(state, [parent / "bank" for parent in path.parents[:2]])
    return {"bank/images": found.images, "bank/labels": found.labels, "bank/rounds": found.rounds}


def finished(folder: Path, recipe: str) -> dict[str, Tensor]:
    """Return what the checkpoint to go on from makes final: rows of the bank, or snapshots of experts.

    Args:
        folder: of a case.
        recipe: its recipe.
    """
    if recipe == "quickstart":
        return bank(taken(folder))
    if recipe == "dm":
        return {}
    ended = _epochs(_read(taken(folder)))
    kept: dict[str, Tensor] = {}
    for path in (folder / "out").glob("*.safetensors"):
        info, expert, epoch = read_snapshot_header(path)
        if expert * info.epochs + epoch <= ended:
            kept |= _tensors(path)
    return kept


def rows_kept(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    """Return whether all that was final is in the outcome to the bit, in a bank as its first rows.

    Args:
        before: what :func:`finished` returned.
        after: tensors of the outcome.
    """
    return all(name in after and torch.equal(rows, after[name][: len(rows)]) for name, rows in before.items())


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest absolute difference, infinity if something is missing, of another shape or no number.

    Args:
        found: an outcome.
        expected: that of the run that was left alone.
    """
    if {n: v.shape for n, v in found.items()} != {n: v.shape for n, v in expected.items()} or not found:
        return float("inf")
    return max(_apart(found[name].double(), value.double()) for name, value in expected.items())


def _apart(found: Tensor, expected: Tensor) -> float:
    apart = torch.where(found == expected, 0.0, (found - expected).abs()).nan_to_num(nan=float("inf"))
    return float(apart.max()) if apart.numel() else 0.0


def faults(one: Attempt, hit: Hit | None) -> list[str]:
    """Return what must not be, whatever becomes of the run.

    Args:
        one: the attempt.
        hit: what it was to be hit by.
    """
    broken = [f"{one.left} processes were left"] if one.left else []
    if hit is None and any(one.codes):
        broken.append(f"it was left alone and ended with {one.codes}")
    ended = one.hit.endswith("end")
    if one.hit and not ended and not any(one.codes):
        broken.append("it was hit and ended as if it were finished")
    if hit is not None and hit.name == "SIGUSR1":
        trained = one.hit and not ended and not one.hit.endswith("nothing")
        if one.asked > 1 or (trained and one.asked != 1):
            broken.append(f"a requeue was asked for {one.asked} times")
    elif one.asked:
        broken.append("a requeue was asked for")
    return broken


def compared(found: Outcome, alone: Outcome, recipe: str, same: bool) -> list[str]:
    """Return what should be as in the run that was left alone, and is not.

    Args:
        found: the outcome of a case.
        alone: of the run that was left alone.
        recipe: name of the recipe.
        same: whether all attempts had as many processes.
    """
    broken = [] if found.steps == alone.steps else [f"steps and epochs {found.steps}, alone {alone.steps}"]
    figures = apart(found, alone, recipe)
    if figures["difference"] is None:
        return [*broken, "other tensors were written, or none"]
    bounds = {"difference": 0.0, "points": 0.0}
    if not same:
        bounds = {"points" if recipe == "quickstart" else "difference": BOUNDS[recipe]}
    for what, bound in bounds.items():
        if (figure := figures.get(what) or 0.0) > bound:
            broken.append(f"{what} {figure:g} to the run left alone, expected at most {bound:g}")
    return broken


def apart(found: Outcome, alone: Outcome, recipe: str) -> dict[str, float | None]:
    """Return how far an outcome is from that of the run that was left alone; ``None`` if tensors are missing.

    Args:
        found: the outcome.
        alone: of the run that was left alone.
        recipe: name of the recipe.
    """
    largest = difference(found.tensors, alone.tensors)
    figures: dict[str, float | None] = {"difference": None if largest == float("inf") else largest}
    if recipe == "quickstart":
        figures["points"] = round(100 * abs((found.accuracy or 0) - (alone.accuracy or 0)), 2)
    return figures


def damaged(folder: Path) -> list[str]:
    """Return the files under final names that cannot be read whole.

    Args:
        folder: of a case.
    """
    readers = {".ckpt": _read, ".safetensors": _read_set, ".json": lambda path: json.loads(path.read_text())}
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in readers and path.is_file()):
        try:
            readers[path.suffix](path)
        except Exception as error:  # whatever a damaged file makes its reader say
            found.append(f"{path.relative_to(folder)}: {type(error).__name__}: {error}"[:200])
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    return {f"{path.name}/{name}": value for name, value in load_file(path).items()}


def _epochs(state: dict[str, Any]) -> int:
    return int(state["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"])


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return content


def _read_set(path: Path) -> object:
    return unpack(CHUNK_KIND, path) if path.name.startswith("chunk_") else load_file(path)
