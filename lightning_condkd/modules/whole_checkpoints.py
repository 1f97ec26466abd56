"""Checkpoints that are written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_condkd.data.files import write_atomic


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's way to write and read checkpoints, but a local one appears under its name when all of it is on disk.

    Lightning writes into the folder for temporary files and moves. Where that is on another disk, as on most clusters,
    moving is copying, and a process that is killed meanwhile leaves a checkpoint that is cut off.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     WholeCheckpointIO().save_checkpoint({"global_step": 3}, Path(folder, "3.ckpt"))
        ...     WholeCheckpointIO().load_checkpoint(Path(folder, "3.ckpt"))
        {'global_step': 3}
    """

    # Any: Lightning's own signature
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:  # noqa: ANN401
        """Write a checkpoint.

        Args:
            checkpoint: what is to be written.
            path: its file; a URL is left to Lightning.
            storage_options: refused, as by Lightning.

        Raises:
            TypeError: with ``storage_options``.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomic(Path(path), content.getbuffer())


class WholeCheckpoints(L.Callback):
    """Has the trainer write by :class:`WholeCheckpointIO`, unless the user gave it a plugin for checkpoints."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the place of Lightning's default.

        Args:
            trainer: the trainer.
            pl_module: not used.
            stage: not used.
        """
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpointIO()
