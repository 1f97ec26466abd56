"""Checkpoint files: atomic writing, and checks when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO

from lightning_condkd.messages import listed
from lightning_condkd.unpickling import check_sums, damage, refused_names
from lightning_condkd.writing import save_by_torch

NEEDED = ("state_dict", "pytorch-lightning_version")


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin with atomic writes, and an error of one line for damaged files.

    Files are written next to their target and then renamed. Lightning writes to the folder for temporary files; if that
    is on another disk, the file is then copied, and a full disk leaves an incomplete file under the final name. Remote
    addresses are written as in Lightning.

    Example:
        >>> import tempfile
        >>> content = {"state_dict": {}, "pytorch-lightning_version": L.__version__}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     WholeCheckpointIO().save_checkpoint(content, f"{folder}/a.ckpt")
        ...     WholeCheckpointIO().load_checkpoint(f"{folder}/a.ckpt") == content
        True
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401 - Lightning's own signature
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: its content.
            path: the file.
            storage_options: not supported, as in Lightning.

        Raises:
            OSError: if it could not be written; an earlier file is then unchanged.
        """
        if storage_options is not None or _is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            save_by_torch(Path(path), checkpoint)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: the file.
            map_location: as in ``torch.load``.
            weights_only: ``None`` for True, also for remote addresses.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, needs code to be run, or is no checkpoint of Lightning.
        """
        if not _is_remote(path) and not Path(path).exists():
            raise FileNotFoundError(f"no checkpoint at {path}: check the path")
        try:
            if not _is_remote(path):
                check_sums(Path(path))
            content = super().load_checkpoint(path, map_location, weights_only is not False)
        except Exception as error:  # on damaged bytes the unpickler may raise any exception
            raise ValueError(refusal(path, error)) from error
        _check_content(content, path)
        return content


def _is_remote(path: str | Path) -> bool:
    return "://" in str(path)


def refusal(path: str | Path, error: Exception) -> str:
    """Return a message of one line about a checkpoint that could not be read, with advice.

    Args:
        path: the file.
        error: the exception raised by reading it.
    """
    if wanted := refused_names(path, error):
        found, cure = f"it asks for {', '.join(wanted)}, which could run code", "Give a checkpoint of this package"
    else:
        found, cure = damage(path, error), "Take an earlier checkpoint of the run, or copy this one again"
    return f"refused to read {path}: {found}. {cure}"


def _check_content(content: object, path: str | Path) -> None:
    names = list(map(str, content)) if isinstance(content, Mapping) else []
    if lacking := [name for name in NEEDED if name not in names]:
        found = listed(names) if names else f"a {type(content).__name__}"
        raise ValueError(
            f"{path} is no checkpoint of a run: expected {' and '.join(lacking)} in it, got {found}. Take one of "
            "lightning_logs/version_*/checkpoints; weights alone are for the network (weights: FILE)"
        )


def own_state(checkpoint: Mapping[str, Any], key: str, module: L.LightningModule) -> dict[str, Any]:
    """Return the entry that a module has added to a checkpoint.

    Args:
        checkpoint: the content read by Lightning.
        key: key of the entry.
        module: the module.

    Raises:
        ValueError: if the checkpoint is of another module.
    """
    if key not in checkpoint:
        raise ValueError(
            f"expected a checkpoint of {type(module).__name__}, got one of another module, without {key!r}: check "
            "--ckpt_path"
        )
    state: dict[str, Any] = checkpoint[key]
    return state


def write_whole(trainer: L.Trainer) -> None:
    """Replace Lightning's own checkpoint plugin by :class:`WholeCheckpointIO`; a plugin of the user stays.

    Args:
        trainer: the trainer.
    """
    holder: Any = trainer.strategy
    chosen: Any = trainer.strategy.checkpoint_io
    while isinstance(chosen, _WrappingCheckpointIO):
        holder, chosen = chosen, chosen.checkpoint_io
    if type(chosen) is TorchCheckpointIO:
        holder._checkpoint_io = WholeCheckpointIO()
