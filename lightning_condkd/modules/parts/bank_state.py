"""Memory bank of a run: its folder, its start, and its state in checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.data.chunks import runs_in
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.training.trainer_access import checkpoint_folder, datamodule_of, transfer_set_of

STATE_KEY, SAVE_ID = "bank", "save"


def find_transfer_set(given: TransferSet | None, trainer: L.Trainer) -> TransferSet:
    """Return the transfer set of a fit.

    Args:
        given: transfer set of the module.
        trainer: trainer whose datamodule may have one.

    Raises:
        ValueError: if there is none, or two.
    """
    others = transfer_set_of(trainer)
    found = others if given is None else given
    if found is None:
        raise ValueError("CondKD found no transfer set: fit with CondensedDataModule, or pass transfer_set=...")
    if given is not None and others is not None and given is not others:
        raise ValueError(
            f"CondKD was given transfer_set=... and {type(datamodule_of(trainer)).__name__} holds another one: leave "
            "transfer_set out to learn from the datamodule's, or fit with step_loader(inversion.cadence.length) in its "
            "place"
        )
    return found


def bank_folder(trainer: L.Trainer) -> Path | None:
    """Return the folder of the bank's files, next to the folder of the checkpoints; the same on all ranks.

    The loggers' folders are not used, because those of W&B and MLflow are shared by all runs.

    Args:
        trainer: the trainer, with its callbacks set up. Call it on all ranks.

    Returns:
        The folder; ``None`` if there are no checkpoints or they are not on a local disk. The checkpoint then contains
        the bank itself.
    """
    if trainer.checkpoint_callback is None:
        return None
    checkpoints = checkpoint_folder(trainer.checkpoint_callback)
    place = str(checkpoints or trainer.log_dir or trainer.default_root_dir)
    if "://" in place:
        return None
    folder = Path(place).absolute()
    return (folder.parent if checkpoints and folder.name == "checkpoints" else folder) / "bank"


def _free_folder(folder: Path, run_id: str) -> Path:
    """Return the folder, or one named after the run if the first contains another run's bank."""
    own = folder.with_name(f"{folder.name}_{run_id}")
    return own if own.is_dir() or runs_in(folder) - {run_id} else folder


class _Saved(NamedTuple):
    """A saved state: its mark and the chunks that it lists."""

    mark: str
    chunks: frozenset[str]


class BankState:
    """Saves the memory bank of one module in checkpoints and restores it.

    With a capacity, files whose rows are all beyond it are removed at a later save, except those listed by

    * one of the last two saved states,
    * a checkpoint in the folders of the trainer's checkpoint callbacks, or the one that the run resumed from,
    * a checkpoint that was written elsewhere (``trainer.save_checkpoint``), which is detected by its absence from these
      folders at the next save: files that it lists are never removed.

    Nothing is removed while a checkpoint in these folders cannot be read. When you copy a checkpoint to another place,
    copy the bank's folder too.
    """

    def __init__(self) -> None:
        self._resumed = False
        self._begun: TransferSet | None = None
        self._token = os.urandom(8).hex()
        self._count = 0
        self._saves: list[_Saved] = []
        self._elsewhere: set[str] = set()
        self._read: dict[tuple[str, int, int], _Saved | None] = {}

    def setup(self) -> None:
        """Reset the record of a resumed fit."""
        self._resumed = False

    def open(self, transfer_set: TransferSet, trainer: L.Trainer) -> None:
        """Empty the bank if this is a new run after another, and set its folder.

        Args:
            transfer_set: the transfer set of the run.
            trainer: the trainer, after a checkpoint was restored.

        Raises:
            ValueError: if it is unclear which rows belong to the new run.
        """
        bank = transfer_set.bank
        goes_on = self._resumed or (self._begun is transfer_set and trainer.global_step > 0)
        if not goes_on and (dropped := bank.start_run()):
            rank_zero_warn(
                f"this is a new run, so the memory bank starts empty: {dropped} images of an earlier run with the same "
                "datamodule or transfer set are dropped. To go on with that run pass its ckpt_path"
            )
        self._begun = transfer_set
        bank.run_id = trainer.strategy.broadcast(bank.run_id)
        folder = bank_folder(trainer)
        if folder is not None:
            bank.attach(trainer.strategy.broadcast(_free_folder(folder, bank.run_id)), writer=trainer.is_global_zero)

    def save(self, bank: MemoryBank, trainer: L.Trainer) -> dict[str, Any]:
        """Return the bank's state after writing the rows that are in no file yet, and remove files no longer needed.

        Args:
            bank: the bank.
            trainer: the trainer.
        """
        self.prune(bank, trainer)
        state = bank.state_dict()
        self._count += 1
        saved = _Saved(f"{self._token}-{self._count}", frozenset(chunk["name"] for chunk in state.get("chunks", ())))
        self._saves.append(saved)
        return {**state, SAVE_ID: saved.mark}

    def load(self, state: Mapping[str, Any], bank: MemoryBank, trainer: L.Trainer) -> None:
        """Restore the bank; search its files in the recorded folder and next to the checkpoint.

        Args:
            state: result of :meth:`save`.
            bank: the bank; its content is replaced.
            trainer: the trainer of the resumed run.
        """
        checkpoint = Path(str(trainer.ckpt_path or ".")).absolute()
        names = "bank", f"bank_{state['run_id']}"
        near = [parent / name for parent in checkpoint.parents[:3] for name in names]
        bank.clear()
        bank.load_state_dict(state, search=near)
        bank.resume_run(state["given"])
        self._resumed = True

    def prune(self, bank: MemoryBank, trainer: L.Trainer) -> None:
        """Remove files that no kept row and no known checkpoint needs.

        Args:
            bank: the bank.
            trainer: the trainer.
        """
        if bank.capacity is None or bank.directory is None or not trainer.is_global_zero:
            return
        try:
            found = {saved.mark: saved.chunks for path in _checkpoints(trainer) if (saved := self._reading(path))}
        except _UnreadableError:
            return
        if self._saves and self._saves[-1].mark not in found:
            self._elsewhere |= self._saves[-1].chunks
        self._saves = self._saves[-2:]
        bank.remove_chunks(self._elsewhere.union(*found.values(), *(saved.chunks for saved in self._saves)))

    def _reading(self, path: Path) -> _Saved | None:
        try:
            there = path.stat()
            key = (str(path), there.st_mtime_ns, there.st_size)
            if key not in self._read:
                self._read[key] = _read(path)
        except Exception as error:  # an unreadable file may list a chunk
            raise _UnreadableError from error
        return self._read[key]


class _UnreadableError(Exception):
    """A checkpoint whose chunks cannot be determined."""


def _read(path: Path) -> _Saved | None:
    content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    state = (content.get("condkd") or {}).get(STATE_KEY)
    if state is None:
        return None
    return _Saved(state[SAVE_ID], frozenset(chunk["name"] for chunk in state.get("chunks", ())))


def _checkpoints(trainer: L.Trainer) -> Iterator[Path]:
    for callback in trainer.checkpoint_callbacks:
        if folder := checkpoint_folder(callback):
            yield from Path(folder).rglob("*.ckpt")
    yield from Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt")
    if trainer.ckpt_path is not None and Path(trainer.ckpt_path).exists():
        yield Path(trainer.ckpt_path)
